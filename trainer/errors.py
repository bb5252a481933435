"""The error tree of the trainer.

HeadwaterError
└── TrainerError
    ├── RecoveryError   the recovery state cannot be read, or does not fit the configuration or the topic
    ├── UnknownPoint    no recovery point has the number that was given
    ├── SourceFailed    reading the samples ended with an error
    ├── DeviceMissing   the configured device is not there
    ├── ExtraMissing    a package that the configuration needs is not installed
    └── Returning       everything has to return to a recovery point
        ├── ShardReset  because a shard came back from its own checkpoint, or was restored
        └── RollBack    because an operator says so
"""

from __future__ import annotations

from collections.abc import Iterable

from schema.errors import HeadwaterError


class TrainerError(HeadwaterError):
    """Base of what the trainer raises on purpose."""


class RecoveryError(TrainerError):
    """The trainer cannot go on from its recovery state. The text says what an operator can do."""


class UnknownPoint(TrainerError, ValueError):  # noqa: N818 - named for what was asked for
    """There is no recovery point `number`. The text has those that there are."""

    def __init__(self, number: object, points: Iterable[int]) -> None:
        legal = ", ".join(map(str, points)) or "none yet"
        super().__init__(f"point: {number!r}; legal are {legal}")


class SourceFailed(TrainerError):  # noqa: N818 - named for what happened
    """The reader of the samples topic ended with an error, which is the cause of this one."""


class Returning(TrainerError):  # noqa: N818 - named for what has to happen
    """The trainer that raised it is to be thrown away; another one recovers from the newest point."""


class ShardReset(Returning):
    """A shard has another epoch than before: it may lack pushes, or have others."""


class RollBack(Returning):
    """An operator wants point `number` to be the newest again."""

    def __init__(self, number: int) -> None:
        super().__init__(f"back to recovery point {number}")
        self.number = number


class DeviceMissing(TrainerError):  # noqa: N818 - named for what is the case
    """The device that the network should be computed on is not there."""


class ExtraMissing(TrainerError):  # noqa: N818 - named for what is the case
    """A package that is not part of every installation is configured to be used. The text names the extra."""

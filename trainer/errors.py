"""The error tree of the trainer.

HeadwaterError
└── TrainerError
    ├── RecoveryError   the recovery state cannot be read, or does not fit the configuration or the topic
    ├── SourceFailed    reading the samples ended with an error
    ├── DeviceMissing   the configured device is not there
    └── ExtraMissing    a package that the configuration needs is not installed
"""

from __future__ import annotations

from schema.errors import HeadwaterError


class TrainerError(HeadwaterError):
    """Base of what the trainer raises on purpose."""


class RecoveryError(TrainerError):
    """The trainer cannot go on from its recovery state. The text says what an operator can do."""


class SourceFailed(TrainerError):  # noqa: N818 - named for what happened
    """The reader of the samples topic ended with an error, which is the cause of this one."""


class DeviceMissing(TrainerError):  # noqa: N818 - named for what is the case
    """The device that the network should be computed on is not there."""


class ExtraMissing(TrainerError):  # noqa: N818 - named for what is the case
    """A package that is not part of every installation is configured to be used. The text names the extra."""

"""What a run of simulated users compares: which replica is frozen, and when a trend sets in. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from schema.config import Config, ReplicaConfig

LEAST_SECONDS: Final = 60.0
"""The shortest run with a comparison: a shorter one leaves no time to learn, to freeze and to recover."""

_WARM_UP_SHARE: Final = 1 / 8
_TREND_SHARE: Final = 1 / 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's configuration, and the seconds after which a trend is injected (None: no trend)."""

    config: Config
    trend_after: float | None = None


def plan(config: Config, seconds: float, port: int) -> Plan:
    """A comparison over `seconds`, if they suffice.

    To the replicas of `config` one on `port` is added that stops learning an eighth of the run after its
    first trained model, so that it is frozen with one that works; unless the configuration has one already.
    """
    if seconds < LEAST_SECONDS:
        return Plan(config)
    replicas = config.serving.replicas
    if all(replica.freeze_after_seconds is None for replica in replicas):
        replicas = (*replicas, ReplicaConfig(port=port, freeze_after_seconds=seconds * _WARM_UP_SHARE))
    serving = msgspec.structs.replace(config.serving, replicas=replicas)
    return Plan(msgspec.structs.replace(config, serving=serving), seconds * _TREND_SHARE)

"""How the simulated world changes: tastes drift and jump, items are born and grow stale, a trend sets in.

Pure: time is a number of ticks. The world after tick n depends on the seed, on n and on the trends alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from schema.config import SimulationConfig
from simulation.chance import Purpose
from simulation.truth import F64, World, blended, own_tastes

TICK_SECONDS: Final = 1.0
_STALE: Final = 3.0
"""What a dead item loses in quality: its appeal, in log-odds."""


@dataclass(frozen=True, slots=True)
class Trend:
    """From its start on, every user gives `strength` (0 to 1) of all interest to `topic`."""

    topic: int
    strength: float


class Life:
    """The life of `world`, which it changes.

    Tastes: every second, one user in `drift_seconds` picks a new aim, towards which the user's own taste
    moves by 1 / drift_seconds of what is left; one in `jump_seconds` has wholly new tastes at once. Items:
    each lives for an exponential time around `item_life_seconds`, then nobody cares for it any more, and
    another is born in its place, with an id of its own.
    """

    def __init__(self, world: World, config: SimulationConfig) -> None:
        rng = np.random.default_rng([config.seed, Purpose.TICK])
        self._world = world
        self._config = config
        self._aims = own_tastes(rng, world.topics, len(world.users))
        self._dies_at = self._deaths(rng, len(world.items), 0)
        self._dead = 0
        self.ticks = 0
        self.trend: Trend | None = None

    @property
    def dead_items(self) -> int:
        """How many items nobody cares for any more."""
        return self._dead

    def advance(self, ticks: int) -> Sequence[int]:
        """Let the world be as it is after `ticks` ticks in all; the items that were born on the way."""
        before = len(self._world.items)
        while self.ticks < ticks:
            self.ticks += 1
            rng = np.random.default_rng([self._config.seed, Purpose.TICK, self.ticks])
            self._move_tastes(rng)
            self._renew_items(rng)
        self._blend()
        return range(before, len(self._world.items))

    def set_trend(self, topic: int | None, strength: float) -> Trend:
        """Have a trend set in, in place of any other; without a topic, the one that users like least now.

        Raises:
            ValueError: there is no such topic, or the strength is not in [0, 1].
        """
        if topic is None:
            topic = int(self._world.users.tastes.mean(axis=0).argmin())
        if not 0 <= topic < self._world.topics:
            raise ValueError(f"topic: {topic}; legal is 0 to {self._world.topics - 1}")
        if not 0.0 <= strength <= 1.0:
            raise ValueError(f"strength: {strength}; legal is 0 to 1")
        self.trend = Trend(topic, strength)
        self._blend()
        return self.trend

    def _move_tastes(self, rng: np.random.Generator) -> None:
        users, topics = self._world.users, self._world.topics
        turning, jumping = rng.random((2, len(users)))
        turned = np.flatnonzero(turning < TICK_SECONDS / self._config.drift_seconds)
        jumped = np.flatnonzero(jumping < TICK_SECONDS / self._config.jump_seconds)
        self._aims[turned] = own_tastes(rng, topics, len(turned))
        users.own += min(1.0, TICK_SECONDS / self._config.drift_seconds) * (self._aims - users.own)
        users.own[jumped] = self._aims[jumped] = own_tastes(rng, topics, len(jumped))

    def _renew_items(self, rng: np.random.Generator) -> None:
        dying = np.flatnonzero(self._dies_at == self.ticks)
        if not len(dying):
            return
        self._world.items.qualities[dying] -= _STALE
        self._dead += len(dying)
        self._world.items = self._world.items.with_more(self._world.new_items(rng, len(dying)))
        self._dies_at = np.concatenate((self._dies_at, self._deaths(rng, len(dying), self.ticks)))

    def _deaths(self, rng: np.random.Generator, count: int, now: int) -> F64:
        return now + np.ceil(rng.exponential(self._config.item_life_seconds / TICK_SECONDS, count))

    def _blend(self) -> None:
        users, trend = self._world.users, self.trend
        users.tastes = blended(users)
        if trend is not None:
            users.tastes *= 1.0 - trend.strength
            users.tastes[:, trend.topic] += trend.strength

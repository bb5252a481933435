"""What the simulated users may be asked and told while they run: report "simulation", command "trend".

The ops endpoint's threads call in; everything is done in the event loop that the users live in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeVar

import msgspec

from runtime.ops import Command
from schema.config import Config
from simulation.visits import Visits

_SECONDS: Final = 5.0
_SAMPLED_USERS: Final = 32

T = TypeVar("T")


class TrendCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let a trend set in: the topic (by default the one that users like least), and its share of interest."""

    topic: int | None = None
    strength: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.7


class Control:
    """Reports on `visits` and commands them, from any thread."""

    def __init__(self, visits: Visits, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._visits = visits
        self._feed_size = config.serving.feed_size
        self._loop = loop
        self.trends: list[dict[str, Any]] = []
        self.reports: dict[str, Callable[[], Any]] = {"simulation": lambda: self._in_loop(self._report)}
        self.commands: dict[str, Command] = {"trend": lambda given: self._in_loop(lambda: self._trend(given))}

    def _in_loop(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_SECONDS)

    def _trend(self, given: dict[str, Any]) -> dict[str, Any]:
        """Let a trend set in now; what it is, and since when.

        Raises:
            ValueError: the parameters are not a trend's.
        """
        wanted = msgspec.convert(given, TrendCommand)
        trend = self._visits.life.set_trend(wanted.topic, wanted.strength)
        self.trends.append({"at": _now_ms(), **asdict(trend)})
        return self.trends[-1]

    def _report(self) -> dict[str, Any]:
        visits, world = self._visits, self._visits.world
        users = range(0, len(world.users), max(1, len(world.users) // _SAMPLED_USERS))
        best = [world.best_interest(user, self._feed_size) for user in users]
        return {
            **asdict(visits.counts),
            "errors": visits.errors,
            "users": len(world.users),
            "items": len(world.items),
            "dead_items": visits.life.dead_items,
            "served_interest": visits.ledger.recent(_now_ms()),
            "best_interest": sum(best) / len(best),
            "trends": self.trends,
        }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""The closed loop: visits begin on schedule, each asks for a feed, and acts on it a little later.

Knows the world and the clients; not how the process is started or stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from schema.config import Config
from simulation.arms import Arms
from simulation.behaviour import Feed, Reactions, Visitors, bodies, delays, reactions, visitors
from simulation.catalogue import item_bodies, user_bodies
from simulation.client import ReplicaClient, Sleep
from simulation.errors import Rejected, ServingUnavailable
from simulation.ledger import Ledger, Served
from simulation.life import TICK_SECONDS, Life
from simulation.truth import World

_log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 256
"""Visits that wait for a feed at most; beyond it one that is due does not happen: its user goes elsewhere."""

_BLOCK: Final = 256


@dataclass(slots=True)
class Counts:
    """What has happened so far; `actions` are those that a replica took."""

    feeds: int = 0
    impressions: int = 0
    actions: int = 0
    clicks: int = 0
    skipped: int = 0
    born: int = 0


class Visits:
    """Users of `world` coming to the replicas behind `arms`.

    Args:
        config: `simulation` sets the delay, `streaming.window_seconds` bounds it.
        clock: wall-clock seconds, for event times.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        arms: Arms,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self.ledger = Ledger()
        self.life = Life(world, config.simulation)
        self._delay_seconds = config.simulation.action_delay_seconds
        self._window_seconds = config.streaming.window_seconds
        self.world = world
        self._arms = arms
        self._clock = clock
        self._sleep = sleep
        self._decoder = msgspec.json.Decoder(Feed)
        self._block: tuple[int, Visitors] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._asking = 0
        self._stopping = False

    @property
    def errors(self) -> int:
        """How many tries failed, for whatever reason."""
        return self._arms.errors

    async def introduce(self, seconds: float) -> None:
        """Tell a replica of the world's items and users.

        Raises:
            ServingUnavailable: none took them within `seconds`.
            Rejected: a replica refuses them.
        """
        try:
            async with asyncio.timeout(seconds):
                everything = range(len(self.world.items))
                await self._post_all("/v1/items", item_bodies(self.world, self._now(), everything))
                await self._post_all("/v1/users", user_bodies(self.world))
        except TimeoutError as error:
            raise ServingUnavailable(
                f"no replica took the simulated items and users within {seconds:g} s; "
                "serving.replicas names where they have to listen"
            ) from error

    async def run(self, rate: float, stop: asyncio.Event) -> None:
        """Begin `rate` visits a second, whatever becomes of the earlier ones, until `stop`."""
        clock = asyncio.get_running_loop().time
        began = clock()
        number = 0
        while not stop.is_set():
            passed = clock() - began
            self._live(passed)
            # all that are due: the loop sleeps for a millisecond at least
            while number <= passed * rate and not stop.is_set():
                self._begin(number)
                number += 1
                await asyncio.sleep(0)  # its question is under way before the next one begins
            try:
                async with asyncio.timeout(max(0.0, began + number / rate - clock())):
                    await stop.wait()
            except TimeoutError:
                continue

    async def finish(self, seconds: float) -> int:
        """Ask for no further feeds, deliver what is outstanding; the number of visits given up on."""
        self._stopping = True
        if not self._under_way:
            return 0
        _, late = await asyncio.wait(self._under_way, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        return len(late)

    async def visit(self, number: int) -> None:
        """One visit: a feed, and the actions it leads to. What a replica refuses is logged and counted."""
        user, surface = self._visitor(number)
        client = self._arms.client(user)
        try:
            answer = await self._ask(client, {"user_id": user, "surface": surface})
            if answer is None:
                return
            feed = self._decoder.decode(answer)
            done = self._served(number, user, feed)
            if done.clicks.any():
                pause = delays(self.world, np.array([number]), self._delay_seconds, self._window_seconds)
                await self._sleep(float(pause[0]))
                await self._act(client, user, bodies(feed.request_id, done, self._now()))
        except (Rejected, msgspec.DecodeError) as error:
            self._refused(client, number, error)

    async def _ask(self, client: ReplicaClient, body: dict[str, int]) -> bytes | None:
        self._asking += 1
        try:
            return await client.post("/v1/feed", body, lambda: not self._stopping)
        finally:
            self._asking -= 1

    def _served(self, number: int, user: int, feed: Feed) -> Reactions:
        """Count the feed, note how interesting it truly is, and decide what its user will do."""
        self.counts.feeds += 1
        self.counts.impressions += len(feed.items)
        items = np.array([shown.item_id for shown in feed.items], np.int64)
        positions = np.array([shown.position for shown in feed.items], np.int64)
        known = items[(items >= 0) & (items < len(self.world.items))]
        if len(known):
            interest = float(self.world.interest(user, known).mean())
            self.ledger.add(Served(self._now(), user, self._arms.is_frozen(user), interest))
        same = np.ones(len(items), np.int64)
        return reactions(self.world, number * same, user * same, items, positions)

    async def _act(self, client: ReplicaClient, user: int, done: list[Any]) -> None:
        """Deliver the actions, however often it takes."""
        await client.post("/v1/actions", {"user_id": user, "actions": done})
        self.counts.actions += len(done)
        self.counts.clicks += sum(action.kind == "click" for action in done)

    def _visitor(self, number: int) -> tuple[int, int]:
        """The user and the surface of a visit, drawn by the block."""
        first = number - number % _BLOCK
        if self._block is None or self._block[0] != first:
            self._block = first, visitors(self.world, np.arange(first, first + _BLOCK))
        who, at = self._block[1], number - first
        return int(who.users[at]), int(who.surfaces[at])

    def _live(self, seconds: float) -> None:
        """Let the world go on to `seconds` after the start, and a replica know of the items born."""
        if int(seconds / TICK_SECONDS) <= self.life.ticks:
            return
        born = self.life.advance(int(seconds / TICK_SECONDS))
        self.counts.born += len(born)
        if born:
            self._start(self._tell(born))

    async def _tell(self, born: Sequence[int]) -> None:
        await self._post_all("/v1/items", item_bodies(self.world, self._now(), born))

    def _refused(self, client: ReplicaClient, number: int, error: Exception) -> None:
        if isinstance(error, msgspec.DecodeError):
            client.errors += 1
        _log.error("visit %d: %s", number, error)

    def _begin(self, number: int) -> None:
        if self._asking >= MOST_AT_ONCE:
            self.counts.skipped += 1
            return
        self._start(self.visit(number))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a visit failed", exc_info=error)
            self._arms.live.errors += 1

    async def _post_all(self, path: str, requests: Iterable[dict[str, Any]]) -> None:
        for body in requests:
            await self._arms.live.post(path, body)

    def _now(self) -> int:
        return int(self._clock() * 1000)

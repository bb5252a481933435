"""The closed loop: visits begin on schedule, each asks for a feed, and acts on it a little later.

Knows the world and the client; not how the process is started or stopped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from schema.config import Config
from simulation.behaviour import Feed, bodies, delay, reactions, visitor
from simulation.catalogue import item_bodies, user_bodies
from simulation.client import ReplicaClient, Sleep
from simulation.errors import Rejected, ServingUnavailable
from simulation.truth import World

_log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 256
"""Visits under way at most; beyond it a visit that is due does not happen, as a user goes elsewhere."""


@dataclass(slots=True)
class Counts:
    """What has happened so far; `actions` are those that a replica took."""

    feeds: int = 0
    impressions: int = 0
    actions: int = 0
    clicks: int = 0
    skipped: int = 0


class Visits:
    """Users of `world` coming to the replicas behind `client`.

    Args:
        config: `simulation` sets the delay, `streaming.window_seconds` bounds it.
        clock: wall-clock seconds, for event times.
        sleep: waits some seconds.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        client: ReplicaClient,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.counts = Counts()
        self._delay_seconds = config.simulation.action_delay_seconds
        self._window_seconds = config.streaming.window_seconds
        self._world = world
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._decoder = msgspec.json.Decoder(Feed)
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def introduce(self, seconds: float) -> None:
        """Tell a replica of the world's items and users.

        Raises:
            ServingUnavailable: none took them within `seconds`.
            Rejected: a replica refuses them.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._post_all("/v1/items", item_bodies(self._world, self._now()))
                await self._post_all("/v1/users", user_bodies(self._world))
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
            self._begin(number)
            number += 1
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
        rng = self._world.visit(number)
        who = visitor(self._world, rng)
        try:
            answer = await self._client.post(
                "/v1/feed", {"user_id": who.user, "surface": who.surface}, lambda: not self._stopping
            )
            if answer is None:
                return
            feed = self._decoder.decode(answer)
            self.counts.feeds += 1
            self.counts.impressions += len(feed.items)
            done = reactions(self._world, who.user, feed.items, rng)
            if done:
                await self._sleep(delay(rng, self._delay_seconds, self._window_seconds))
                await self._act(who.user, bodies(feed.request_id, done, self._now()))
        except (Rejected, msgspec.DecodeError) as error:
            self._refused(number, error)

    async def _act(self, user: int, done: list[Any]) -> None:
        """Deliver the actions, however often it takes."""
        await self._client.post("/v1/actions", {"user_id": user, "actions": done})
        self.counts.actions += len(done)
        self.counts.clicks += sum(action.kind == "click" for action in done)

    def _refused(self, number: int, error: Exception) -> None:
        if isinstance(error, msgspec.DecodeError):
            self._client.errors += 1
        _log.error("visit %d: %s", number, error)

    def _begin(self, number: int) -> None:
        if len(self._under_way) >= MOST_AT_ONCE:
            self.counts.skipped += 1
            return
        task = asyncio.create_task(self.visit(number))
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a visit failed", exc_info=error)
            self._client.errors += 1

    async def _post_all(self, path: str, requests: Iterable[dict[str, Any]]) -> None:
        for body in requests:
            await self._client.post(path, body)

    def _now(self) -> int:
        return int(self._clock() * 1000)

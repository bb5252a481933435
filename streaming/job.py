"""The running joiner: messages from Faust into partitions, parcels to the outlet, acknowledgements back.

Thin: it holds the clocks and the tasks; what happens to a message is `partition`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import faust
from faust.types import TP

from schema.config import Config
from streaming.counts import Counts
from streaming.idle import IdleProbe
from streaming.join import Rules
from streaming.outlet import Outlet
from streaming.parcels import Parcel
from streaming.partition import Message, Partition, Timing
from streaming.watermark import Side

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.1
_FLUSH_AT: Final = 64
_FULL_AT: Final = 2048


def steady_ms() -> int:
    """A clock that only moves on, ms."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Job:
    """The join of all partitions that this worker has.

    Args:
        app: the Faust app to read from and write through.
        config: the deployment.
    """

    def __init__(self, app: faust.App, config: Config) -> None:
        topics = config.kafka.topics
        self.counts = Counts()
        self.partitions: dict[int, Partition] = {}
        self.assigned: set[int] | None = None
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self._app = app
        self._names = (topics.feature_logs.name, topics.user_actions.name)
        self._sides = {name: side for side, name in zip(Side, self._names, strict=True)}
        self._rules = Rules.of(config.streaming.window_seconds, config.tasks)
        disorder, idle = config.streaming.disorder_seconds, config.streaming.idle_seconds
        self._timing = Timing(round(disorder * 1000), round(idle * 1000))
        self._outlet = Outlet(app, topics, self._on_delivered, self.fail)
        self._probe = IdleProbe(app, self._names)
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]
        app.on_partitions_revoked.connect(self._on_revoked)  # type: ignore[arg-type]
        channel = app.topic(*self._names, key_serializer="raw", value_serializer="raw")
        app.agent(channel, name="join")(self._guarded(self._consume))
        app.task(self._guarded(self._flush_for_ever))
        app.task(self._guarded(self._tick_for_ever))

    def fail(self, error: BaseException) -> None:
        """The worker cannot go on. What it has not acknowledged is read again by whoever comes next."""
        if self.failure is None:
            self.failure = error
            _log.error("the joiner stops: %s", error, exc_info=error)
            self.failed.set()

    async def finish(self, seconds: float) -> None:
        """Send what is closed, and acknowledge what arrives within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._flush()
                await self._outlet.settle()
        except TimeoutError:
            _log.warning("not everything could be sent within %g s; it is read again", seconds)

    async def _consume(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            partition = self._partition(message.partition)
            stamp = wall_ms() if message.timestamp is None else round(message.timestamp * 1000)
            value, message.value = message.value, None  # the message waits for its window, its bytes need not
            partition.receive(
                self._sides[message.topic], Message(message.offset, stamp, value, message), steady_ms()
            )
            if partition.outbox >= _FLUSH_AT:
                self._wake.set()
                while partition.outbox >= _FULL_AT and self.partitions.get(partition.number) is partition:
                    self._room.clear()
                    await self._room.wait()

    async def _flush_for_ever(self) -> None:
        while not self._app.should_stop:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()

    async def _tick_for_ever(self) -> None:
        while not self._app.should_stop:
            await asyncio.sleep(_TICK_SECONDS)
            await self._probe.look(self.partitions, steady_ms())
            for partition in list(self.partitions.values()):
                partition.advance(wall_ms())
                self._acknowledge(partition)
            self._wake.set()

    async def _flush(self) -> None:
        for partition in list(self.partitions.values()):
            for parcel in partition.parcels():
                await self._outlet.send(partition, parcel)
        self._room.set()

    def _partition(self, number: int) -> Partition:
        partition = self.partitions.get(number)
        if partition is None:
            partition = Partition(
                number, self._names, self._rules, self._timing, counts=self.counts, now=steady_ms()
            )
            self.partitions[number] = partition
        return partition

    def _on_delivered(self, partition: Partition, parcel: Parcel) -> None:
        partition.delivered(parcel)
        if self.partitions.get(partition.number) is partition:
            self._acknowledge(partition)

    def _acknowledge(self, partition: Partition) -> None:
        for message in partition.acknowledged():
            message.ack(self._app.consumer)

    async def _on_assigned(self, _app: Any, *args: Any, **_: Any) -> None:
        assigned: set[TP] = args[0]
        self.assigned = {tp.partition for tp in assigned}
        _log.info("partitions %s", sorted(self.assigned))

    async def _on_revoked(self, _app: Any, *args: Any, **_: Any) -> None:
        revoked: set[TP] = args[0]
        # the next owner, be it this worker, reads them again from the oldest open request
        for number in {tp.partition for tp in revoked}:
            self.partitions.pop(number, None)
        self.assigned = None
        self._room.set()

    def _guarded(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` with its errors ending the worker: Faust would log them and start it anew."""

        @functools.wraps(work)
        async def guarded(*args: Any) -> None:
            try:
                await work(*args)
            except Exception as error:  # noqa: BLE001 - handed on, not swallowed
                self.fail(error)

        return guarded

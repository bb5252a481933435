"""The running joiner: messages from the intake into partitions, parcels to the outlet, offsets to Kafka.

Thin: it holds the tasks; what becomes of a message is `partition`'s, what lies on disk `holding`'s.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from faust.types import TP

from schema.config import Config
from streaming.app import JoinerApp
from streaming.clocks import steady_ms, wall_ms
from streaming.counts import Counts
from streaming.holding import Holding
from streaming.holdings import Holdings
from streaming.idle import IdleProbe
from streaming.offsets import Offsets
from streaming.outlet import Outlet
from streaming.parcels import Parcel
from streaming.partition import Message, Partition
from streaming.rules import Rules
from streaming.watermark import Side

_log = logging.getLogger(__name__)

_TICK_SECONDS: Final = 0.1
_FLUSH_AT: Final = 64
_FULL_AT: Final = 2048
_TURN_MS: Final = 3
"""For how long messages are joined before other tasks have their turn."""

_REVOKE_SECONDS: Final = 2.0


class Job:
    """The join of all partitions that this worker has.

    Args:
        app: the Faust app to read from and write through.
        config: the deployment.
        worker: which worker this is.
    """

    def __init__(self, app: JoinerApp, config: Config, worker: int) -> None:
        topics = config.kafka.topics
        self.counts = Counts()
        self.assigned: set[int] | None = None
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.unread: dict[tuple[str, int], int] = {}
        self.state_bytes = 0
        self.gate = asyncio.Lock()
        self.rounds = 0
        self._app = app
        self._config = config
        self._names = (topics.feature_logs.name, topics.user_actions.name)
        self._sides = {name: side for side, name in zip(Side, self._names, strict=True)}
        self._outlet = Outlet(app, topics, self._on_delivered, self.fail)
        self._probe = IdleProbe(app, self._names, lambda: self.rounds)
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self.holdings = Holdings(
            config,
            Rules.of(config.streaming, config.tasks),
            Path(config.run_dir) / f"joiner-{worker}",
            counts=self.counts,
            wake=self._wake.set,
            lost=self._room.set,
            fail=self.fail,
        )
        self._offsets = Offsets(app)
        self._leaving = False
        # subscribes to the topics; their messages come through `take` instead, at a tenth of the cost
        app.agent(app.topic(*self._names, key_serializer="raw", value_serializer="raw"), name="join")(
            _nothing
        )
        app.intake = self
        for work in (self._flush_for_ever, self._tick_for_ever, self._commit_for_ever):
            app.task(self._guarded(work))

    @property
    def partitions(self) -> dict[int, Partition]:
        """The partitions by number."""
        return {holding.number: holding.partition for holding in self.holdings}

    def fail(self, error: BaseException) -> None:
        """The joiner cannot go on; what it has not acknowledged is read again by the next one."""
        if self.failure is None:
            _log.error("the joiner stops: %s", error, exc_info=error)
            self.failure = error
            self.failed.set()

    async def finish(self, seconds: float) -> None:
        """Send what is closed, and acknowledge what arrives within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._flush()
                await self._outlet.settle()
                await self._commit()
        except TimeoutError:
            _log.warning("not everything could be sent within %g s; it is read again", seconds)

    def leave(self) -> None:
        """The client is about to be stopped under the tasks that use it."""
        self._leaving = True
        self._offsets.forget()

    async def close(self) -> None:
        """Let go of the late stores."""
        await self.holdings.let_all_go()

    def wants(self, place: TP) -> bool:
        """As `Intake`."""
        holding = self.holdings.get(place.partition)
        return (
            holding is None or not self.holdings.has(holding) or holding.inlet.wants(self._sides[place.topic])
        )

    async def take(self, fetched: Mapping[TP, Sequence[Any]]) -> None:
        """As `Intake`. What is left of them when partitions change hands is read again by the next owner."""
        for place, records in fetched.items():
            holding, side = self.holdings.get(place.partition), self._sides[place.topic]
            if holding is not None and await self._begins_right(holding, side, place, records[0].offset):
                holding.inlet.add(side, records)
        for holding in self.holdings:
            await holding.settle()
            await self._work_off(holding)
        self.rounds += not any(len(holding.inlet) for holding in self.holdings)

    async def _work_off(self, holding: Holding) -> None:
        """Join what was fetched, but for what had better wait."""

        def more(side: Side) -> bool:
            return self._offsets.more(TP(self._names[side], holding.number))

        turn = now = steady_ms()
        while self.holdings.has(holding) and (some := holding.inlet.take(more, now)) is not None:
            self._receive(holding, *some)
            if holding.partition.outbox >= _FLUSH_AT:
                self._wake.set()
            now = steady_ms()
            if now - turn >= _TURN_MS:
                await asyncio.sleep(0)
                turn = now
            while holding.partition.outbox >= _FULL_AT and self.holdings.has(holding):
                self._room.clear()
                await self._room.wait()

    async def _begins_right(self, holding: Holding, side: Side, place: TP, first: int) -> bool:
        """Whether a fetch goes on where reading stood. The first after a change of hands need not.

        It may have been under way while they changed, or its predecessor got lost then.
        """
        if side in holding.begun:
            return True
        start = await self._offsets.acknowledged(place)
        if not self.holdings.has(holding):
            return False
        holding.begun.add(side)
        if first <= start:
            return True
        await self._app.consumer.seek(place, start)
        return False

    def _receive(self, holding: Holding, side: Side, records: Sequence[Any]) -> None:
        now, partition = steady_ms(), holding.partition

        def receive() -> None:
            for record in records:
                if record.offset >= partition.next_offset(side):
                    stamp = wall_ms() if record.timestamp is None else record.timestamp
                    partition.receive(side, Message(record.offset, stamp, record.value), now)

        self.holdings.safely(holding, receive)

    async def _flush_for_ever(self) -> None:
        while not self._app.should_stop:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()

    async def _tick_for_ever(self) -> None:
        while not self._app.should_stop:
            await asyncio.sleep(_TICK_SECONDS)
            await self._probe.look(self.partitions, steady_ms())
            for holding in self.holdings:
                if holding.to_retry:
                    self.holdings.broken.add(holding.number)
                elif self.holdings.has(holding):
                    self.holdings.safely(holding, holding.tick)
            for number in list(self.holdings.broken):
                await self._start_again(number)
            self._wake.set()

    async def _commit_for_ever(self) -> None:
        while not self._app.should_stop:
            await asyncio.sleep(self._config.streaming.commit_seconds)
            await self._commit()
            self._measure()

    def _measure(self) -> None:
        """Refresh the figures that are not counted on the way."""
        self.state_bytes = sum(
            self.holdings.safely(holding, holding.state_bytes) or 0 for holding in self.holdings
        )
        read = {
            TP(name, number): partition.next_offset(side)
            for number, partition in self.partitions.items()
            for side, name in zip(Side, self._names, strict=True)
        }
        self.unread = self._offsets.unread(read)

    async def _commit(self) -> None:
        await self._offsets.commit(self._safe_offsets)

    def _safe_offsets(self) -> dict[TP, int]:
        """Below which offsets everything may be acknowledged; what they rely on is written first."""
        return {
            TP(self._names[side], holding.number): offset
            for holding in self.holdings.sound()
            for side, offset in (self.holdings.safely(holding, holding.checkpoint) or {}).items()
        }

    async def _flush(self) -> None:
        for holding in self.holdings:
            if holding.number not in self.holdings.broken:
                for parcel in holding.partition.parcels():
                    await self._outlet.send(holding.partition, parcel)
        self._room.set()

    def _on_delivered(self, partition: Partition, parcel: Parcel) -> None:
        holding = self.holdings.get(partition.number)
        if holding is not None and holding.partition is partition:
            self.holdings.safely(holding, functools.partial(partition.delivered, parcel))

    async def _start_again(self, number: int) -> None:
        """As after a rebalance that gave the partition back to this worker, but with a new late store."""
        self._room.set()
        async with self.gate:
            for holding in await self.holdings.let_go([number]):
                holding.remove_disk()
                places = [TP(name, number) for name in self._names]
                for place in places:
                    await self._app.consumer.seek(place, await self._offsets.acknowledged(place))
                self._probe.forget()
                self.holdings.hold(number)
            self.holdings.broken.discard(number)

    async def assigned_now(self, places: set[TP]) -> None:
        """As `Intake`."""
        self._offsets.forget()
        self._probe.forget()
        self.assigned = {tp.partition for tp in places}
        fresh = sorted(number for number in self.assigned if number not in self.holdings)
        for number in fresh:
            self.holdings.hold(number)
        self._offsets.ask(TP(name, number) for number in fresh for name in self._names)
        _log.info("partitions %s", sorted(self.assigned))

    async def revoked_now(self, places: set[TP]) -> None:
        """As `Intake`."""
        try:
            async with asyncio.timeout(_REVOKE_SECONDS):
                await self._commit()
        except TimeoutError:
            _log.warning("the last offsets were not committed; what they cover is read again")
        # the next owner, be it this worker, reads them again from the oldest open request
        await self.holdings.let_go({tp.partition for tp in places})
        self.holdings.broken.clear()
        self.assigned = None
        self._room.set()

    def _guarded(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` with its errors ending the worker: Faust would log them and start it anew."""

        @functools.wraps(work)
        async def guarded(*args: Any) -> None:
            try:
                await work(*args)
            except Exception as error:  # noqa: BLE001 - handed on, not swallowed
                if self._leaving:
                    _log.debug("ended with its client: %s", error)
                else:
                    self.fail(error)

        return guarded


async def _nothing(stream: Any) -> None:
    async for _ in stream:
        raise AssertionError("a message has come past the intake")

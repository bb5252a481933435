"""A partition that this worker has: its join, its late store, and the thread that brings its past back.

Knows files and threads; the messages are the job's.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kafka.errors import KafkaError

from runtime.errors import BrokerUnavailable
from schema.config import Config
from streaming.clocks import steady_ms, wall_ms
from streaming.counts import Counts
from streaming.emitter import MissingLog
from streaming.inlet import Inlet
from streaming.late import LateStore, LateStoreError, MemoryStore
from streaming.partition import Partition, Timing
from streaming.reread import Reread, Stopped
from streaming.rocks import RocksStore, destroy
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.watermark import Side

_log = logging.getLogger(__name__)

_CLOSED_KEPT: Final = 20_000
_RETRY_SECONDS: Final = 2.0
_RETRY_STORE_MS: Final = 15_000
_CLOSE_SECONDS: Final = 5.0
_SETTLE_MS: Final = 250
"""A past that takes longer to read is not waited for."""


class Holding:
    """Partition `number`, from its assignment until `close`.

    Args:
        config: the deployment.
        rules: what makes a label.
        number: the partition.
        worker_dir: this worker's folder.
        counts: where to count.
        wake: called when there may be something to send.
        failed: called with what ended its late store.
    """

    def __init__(
        self,
        config: Config,
        rules: Rules,
        number: int,
        worker_dir: Path,
        *,
        counts: Counts,
        wake: Callable[[], None],
        failed: Callable[[Holding, BaseException], None],
    ) -> None:
        self.number = number
        self.begun: set[Side] = set()
        self._folder = worker_dir / "late" / str(number)
        self._config = config
        self._wake = wake
        self._closed = False
        self._disk: RocksStore | None = None
        self._retry_at: int | None = None
        self._settled_by = steady_ms() + _SETTLE_MS
        self._behind_until = steady_ms() + round(config.streaming.late_wait_seconds * 1000)
        store: LateStore = MemoryStore(_CLOSED_KEPT)
        if config.streaming.late_horizon_seconds > 0:
            keep = config.streaming.late_horizon_seconds + config.streaming.window_seconds
            self._disk = self._open_disk(self._folder, keep)
            store = self._disk or store
        topics, streaming = config.kafka.topics, config.streaming
        self.partition = Partition(
            number,
            (topics.feature_logs.name, topics.user_actions.name),
            rules,
            Timing(round(streaming.disorder_seconds * 1000), round(streaming.idle_seconds * 1000)),
            sampler=Sampler(streaming.sampling, rules.tasks),
            store=store,
            counts=counts,
            now=steady_ms(),
        )
        self.inlet = Inlet(self.partition.clock, round(streaming.disorder_seconds * 1000))
        self.partition.join.held = True
        self.partition.join.store_behind = self._disk is not None
        self.partition.join.whole = config.streaming.late_horizon_seconds == 0
        self._past = asyncio.create_task(self._bring_back(self._disk.twin() if self._disk else store))
        self._past.add_done_callback(self._note_end)
        self._failed = failed

    @property
    def to_retry(self) -> bool:
        """Whether it does without its disk, and it is time to try again."""
        return self._retry_at is not None and steady_ms() >= self._retry_at

    async def settle(self) -> None:
        """Wait a little for its past: requests that come before that is known are opened one by one."""
        left = self._settled_by - steady_ms()
        if left > 0 and not self._past.done():
            await asyncio.wait([self._past], timeout=left / 1000)

    def tick(self) -> None:
        """Call often: lets event time go on, writes what was put off, ends waits that took too long."""
        join = self.partition.join
        if join.store_behind and not join.held and steady_ms() > self._behind_until:
            _log.error(
                "partition %d: its late store was not rebuilt within streaming.late_wait_seconds; "
                "late actions go on without what it lacks",
                self.number,
            )
            self.partition.go_on(wall_ms())
        self.partition.advance(wall_ms())

    def checkpoint(self) -> dict[Side, int]:
        """Write the late store, and say below which offsets everything may be acknowledged."""
        safe = self.partition.acknowledged()
        if self._disk is not None:
            if Side.FEATURES in safe and self.partition.join.whole:
                self._disk.set_mark(safe[Side.FEATURES], safe.get(Side.ACTIONS, 0))
            self._disk.flush()
        return safe

    def state_bytes(self) -> int:
        """Bytes of the late store."""
        return 0 if self._disk is None else self._disk.size()

    async def close(self) -> None:
        """Let go of the disk."""
        self._closed = True
        await asyncio.wait([self._past], timeout=_CLOSE_SECONDS)
        if self._disk is not None:
            try:
                self._disk.close()
            except LateStoreError as error:
                _log.warning("the late store of partition %d was left open: %s", self.number, error)

    def remove_disk(self) -> None:
        """Remove the late store, once closed, so that it is made anew."""
        try:
            destroy(self._folder)
        except LateStoreError as error:
            _log.error("the late store of partition %d stays as it is: %s", self.number, error)

    def _open_disk(self, folder: Path, keep_seconds: float) -> RocksStore | None:
        """The store; a damaged one is made anew. None if the disk takes nothing at all."""
        try:
            return RocksStore(folder, keep_seconds)
        except LateStoreError as error:
            _log.error("the late store is made anew: %s", error)
        try:
            destroy(folder)
            return RocksStore(folder, keep_seconds)
        except LateStoreError as error:
            _log.error("no late store, late actions are lost until there is one: %s", error)
            self._retry_at = steady_ms() + _RETRY_STORE_MS
        return None

    async def _bring_back(self, store: LateStore) -> None:
        while not self._closed:
            try:
                await asyncio.to_thread(self._read_past, store, asyncio.get_running_loop())
            except (KafkaError, BrokerUnavailable) as error:
                _log.warning("partition %d: its past cannot be read yet (%s)", self.number, error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    def _read_past(self, store: LateStore, loop: asyncio.AbstractEventLoop) -> None:
        mark = None if self._disk is None else self._disk.mark
        reread = Reread(self._config, self.number, store, mark, lambda: self._closed)
        join = self.partition.join

        def say(work: Callable[..., None], *what: object) -> None:
            loop.call_soon_threadsafe(self._guarded, work, *what)

        try:
            reread.locate()
            if join.held:
                say(self.partition.recalled, reread.recall(), wall_ms())
            if self._disk is not None:
                found = reread.catch_up(functools.partial(say, join.park_again))
                say(self.partition.caught_up, found, wall_ms())
        except Stopped:
            _log.debug("partition %d was given away before its past was read", self.number)
        finally:
            reread.close()

    def _guarded(self, work: Callable[..., None], *what: object) -> None:
        if self._closed:
            return
        try:
            work(*what)
        except (LateStoreError, MissingLog) as error:
            self._failed(self, error)
        self._wake()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._closed:
            self._failed(self, error)

"""A samples topic, a parameter server and a recovery store in memory, that can be made to die anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from schema.records import F32, U64
from tests.trainer.make import DIM
from trainer import recovery
from trainer.checkpoint import Image
from trainer.entries import Position
from trainer.feed import Chunk
from trainer.journal import StepRecord
from trainer.messages import MessageReader
from trainer.step import Gradients

SHARDS = 2


class Killed(BaseException):
    """The process died here."""


class Inline(Executor):
    """Does a job when it is handed in."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as the executors of the library do
            future.set_exception(error)
        return future


class _Later(Future[Any]):
    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self._run = run

    def result(self, timeout: float | None = None) -> Any:
        self._run()
        return super().result(timeout)


class Lazy(Executor):
    """Does jobs, in order, only when the result of one is wanted; after one has died, no other."""

    def __init__(self) -> None:
        self._jobs: list[tuple[_Later, Callable[[], Any]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = _Later(lambda: self._until(future))
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def _until(self, wanted: Future[Any]) -> None:
        while not wanted.done():
            future, job = self._jobs.pop(0)
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
                raise


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Killer:
    """Dies at the given events, counted over all lives."""

    def __init__(self, at: Sequence[int] = ()) -> None:
        self._at = set(at)
        self.events = 0

    def due(self) -> bool:
        self.events += 1
        return self.events in self._at

    def point(self) -> None:
        if self.due():
            raise Killed


class FakeLog:
    """A topic: encoded messages by partition. Chunks come one partition at a time, `ahead` messages each."""

    def __init__(
        self, messages: Mapping[int, Sequence[bytes]], reader: MessageReader, clock: Clock, ahead: int = 3
    ) -> None:
        self.messages = {p: list(m) for p, m in messages.items()}
        self.committed: dict[int, Position] = {}
        self._reader = reader
        self._clock = clock
        self._ahead = ahead
        self._next: dict[int, int] = {}

    def start(self, positions: Mapping[int, Position]) -> None:
        self._next = {p: position.offset for p, position in positions.items()}

    def get(self, timeout: float) -> Chunk | None:
        for partition in sorted(self._behind(), key=lambda p: self._next[p]):
            first = self._next[partition]
            payloads = self.messages[partition][first : first + self._ahead]
            self._next[partition] += len(payloads)
            entries = [
                e for i, m in enumerate(payloads) for e in self._reader.entries(partition, first + i, m)
            ]
            return Chunk(tuple(entries), self._behind())
        self._clock.now += timeout
        return None

    def commit(self, positions: Mapping[int, Position]) -> None:
        self.committed = dict(positions)

    def _behind(self) -> frozenset[int]:
        return frozenset(p for p, at in self._next.items() if at < len(self.messages.get(p, ())))


@dataclass
class FakeShard:
    """What one shard has: the sum of gradients by id, and who pushed how far."""

    rows: dict[int, F32] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    clock: int = 0
    epoch: int = 1


@dataclass(frozen=True)
class Done:
    clocks: tuple[int, ...]
    applied: tuple[bool, ...]


class FakeServer:
    """A parameter server whose shards hold odd and even ids.

    Args:
        learning: whether pulled vectors learn from pushes. Without, a run's gradients are the same however
            often it was interrupted, so that whole runs can be compared.
    """

    def __init__(self, killer: Killer, clock: Clock, *, learning: bool = False) -> None:
        self.table = [FakeShard() for _ in range(SHARDS)]
        self.pushes: list[tuple[int, int, list[int]]] = []
        self.dense: list[tuple[str, int, int, bytes]] = []
        self._killer = killer
        self._clock = clock
        self._learning = learning

    @property
    def shards(self) -> int:
        return SHARDS

    def pull(self, table: str, ids: U64) -> F32:  # noqa: ARG002 - one table is enough
        self._clock.now += 1.0
        vectors = first_vectors(ids)
        if self._learning:
            for i, row in enumerate(ids.tolist()):
                learned = self.table[row % SHARDS].rows.get(row)
                if learned is not None:
                    vectors[i] -= np.float32(0.05) * learned
        return vectors

    def push(
        self, trainer: str, step: int, gradients: Gradients, event_time: int, completed_at: Sequence[int] = ()
    ) -> Done:
        applied = []
        for number, shard in enumerate(self.table):
            self._killer.point()
            now = step > shard.steps.get(trainer, 0)
            applied.append(now)
            if now:
                self._apply(number, gradients)
                shard.steps[trainer] = step
                shard.clock += 1
        self.pushes.append((step, event_time, list(completed_at)))
        self._killer.point()
        return Done(tuple(s.clock for s in self.table), tuple(applied))

    def _apply(self, number: int, gradients: Gradients) -> None:
        rows = self.table[number].rows
        for ids, values in gradients.values():
            for row, gradient in zip(ids.tolist(), values, strict=True):
                if row % SHARDS == number:
                    rows[row] = rows.get(row, np.zeros(DIM, np.float32)) + gradient

    def shard_state(self, shard: int) -> FakeShard:
        return self.table[shard]

    def put_dense(self, name: str, version: int, step: int, payload: bytes) -> bool:
        self.dense.append((name, version, step, payload))
        return True


def first_vectors(ids: U64) -> F32:
    """A vector of DIM for each id, a function of the id."""
    spread = (
        ids[:, None] * np.uint64(2654435761) + np.arange(DIM, dtype=np.uint64) * np.uint64(40503)
    ) % np.uint64(997)
    return (spread.astype(np.float32) / 997 - 0.5) * 0.2


class FragileStore(recovery.RecoveryStore):
    """A recovery store that dies before, within and after what it writes."""

    def __init__(self, folder: Path, killer: Killer) -> None:
        super().__init__(folder)
        self._killer = killer

    def append(self, record: StepRecord) -> None:
        self._killer.point()
        if self._killer.due():
            body = msgspec.msgpack.encode(record)
            whole = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
            assert self._journal is not None
            self._journal._file.write(whole[: len(whole) * 2 // 3])
            raise Killed
        super().append(record)
        self._killer.point()

    def save(self, image: Image) -> None:
        self._killer.point()
        if self._killer.due():
            (self._folder / f"checkpoint-{self._number + 1:08d}.tmp").write_bytes(b"half of a checkpoint")
            raise Killed
        super().save(image)
        self._killer.point()

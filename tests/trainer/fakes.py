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

from schema.records import F32, I64, U64
from tests.trainer.make import DIM
from trainer.entries import Position
from trainer.feed import Chunk
from trainer.journal import StepRecord
from trainer.manifest import Manifest
from trainer.messages import MessageReader
from trainer.points import Draft, PointStore
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


class _Asked(Future[Any]):
    """Is done when it has been asked so often whether it is, or for its outcome."""

    def __init__(self, job: Callable[[], Any], patience: int) -> None:
        super().__init__()
        self._job: Callable[[], Any] | None = job
        self._patience = patience

    def done(self) -> bool:
        self._patience -= 1
        if self._patience < 0:
            self._do()
        return super().done()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._do()
        return super().exception(timeout)

    def result(self, timeout: float | None = None) -> Any:
        self._do()
        return super().result(timeout)

    def _do(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        try:
            self.set_result(job())
        except BaseException as error:  # noqa: BLE001 - as the executors of the library do
            self.set_exception(error)


class Slow(Executor):
    """Does its n-th job only once it has been asked n % 4 times whether it is done."""

    def __init__(self) -> None:
        self._jobs = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._jobs += 1
        return _Asked(lambda: fn(*args, **kwargs), self._jobs % 4)


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

    @property
    def history(self) -> bool:
        return False

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

    def hold(self, partitions: frozenset[int]) -> None:
        raise AssertionError(f"{partitions}: so much is in no test")

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
    named: dict[str, FakeShard] = field(default_factory=dict)

    def copy(self) -> FakeShard:
        rows = {row: values.copy() for row, values in self.rows.items()}
        return FakeShard(rows, dict(self.steps), self.clock, self.epoch)

    def become(self, other: FakeShard) -> None:
        """In a new epoch."""
        copy = other.copy()
        self.rows, self.steps, self.clock, self.epoch = copy.rows, copy.steps, copy.clock, self.epoch + 1


@dataclass(frozen=True)
class Done:
    epochs: tuple[int, ...]


class FakeServer:
    """A parameter server whose shards hold odd and even ids.

    Args:
        learning: whether pulled vectors learn from pushes. Without, a run's gradients are the same however
            often it was interrupted, so that whole runs can be compared.
    """

    def __init__(
        self, killer: Killer, clock: Clock, *, learning: bool = False, shard_killer: Killer | None = None
    ) -> None:
        self.table = [FakeShard() for _ in range(SHARDS)]
        self.pushes: list[tuple[int, int, list[int]]] = []
        self.dense: list[tuple[str, int, int, bytes]] = []
        self._killer = killer
        self._shard_killer = shard_killer or Killer()
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

    def shards_of(self, ids: U64) -> I64:
        return (ids % np.uint64(SHARDS)).astype(np.int64)

    def push(
        self, trainer: str, step: int, gradients: Gradients, event_time: int, completed_at: Sequence[int] = ()
    ) -> Done:
        for number, shard in enumerate(self.table):
            self._killer.point()
            if self._shard_killer.due():
                # it comes back as it once was
                shard.become(shard.named[min(shard.named)])
            if step > shard.steps.get(trainer, 0):
                self._apply(number, gradients)
                shard.steps[trainer] = step
                shard.clock += 1
        self.pushes.append((step, event_time, list(completed_at)))
        self._killer.point()
        return Done(tuple(s.epoch for s in self.table))

    def push_and_pull(
        self,
        trainer: str,
        step: int,
        gradients: Gradients,
        event_time: int,
        completed_at: Sequence[int],
        *,
        wanted: Mapping[str, U64],
    ) -> tuple[Done, dict[str, F32]]:
        done = self.push(trainer, step, gradients, event_time, completed_at)
        return done, {table: self.pull(table, ids) for table, ids in wanted.items()}

    def checkpoint(self, shard: int, name: str) -> FakeShard:
        self._killer.point()
        self.table[shard].named[name] = self.table[shard].copy()
        return self.table[shard].named[name]

    def restore(self, shard: int, name: str) -> FakeShard:
        self._killer.point()
        self.table[shard].become(self.table[shard].named[name])
        return self.table[shard]

    def keep(self, shard: int, prefix: str, names: Sequence[str]) -> int:
        self._killer.point()
        named = self.table[shard].named
        unwanted = [name for name in named if name.startswith(prefix) and name not in names]
        for name in unwanted:
            del named[name]
        return len(unwanted)

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


class FragileStore(PointStore):
    """A store of recovery points that dies before, within and after what it writes."""

    def __init__(self, folder: Path, kept: int, killer: Killer) -> None:
        self._killer = killer
        self._drafts: list[Draft] = []
        super().__init__(folder, kept)

    def append(self, record: StepRecord) -> None:
        self._killer.point()
        if self._killer.due():
            body = msgspec.msgpack.encode(record)
            whole = len(body).to_bytes(4, "little") + zlib.crc32(body).to_bytes(4, "little") + body
            self._journal._file.write(whole[: len(whole) * 2 // 3])
            raise Killed
        super().append(record)
        self._killer.point()

    def begin(self) -> Draft:
        self._killer.point()
        self._drafts.append(super().begin())
        self._killer.point()
        return self._drafts[-1]

    def cut(self) -> int:
        self._killer.point()
        journal = super().cut()
        self._killer.point()
        return journal

    def _publish(self, manifest: Manifest) -> None:
        """All that the manifest names is on the disk."""
        self._killer.point()
        if self._killer.due():
            self._path(f"point-{manifest.number:08d}.tmp").write_bytes(b"half of a manifest")
            raise Killed
        super()._publish(manifest)
        self._killer.point()

    def _prune(self) -> None:
        """The manifest is on the disk."""
        self._killer.point()
        super()._prune()

    def close(self) -> None:
        for draft in self._drafts:
            draft.pushes.close()
        super().close()

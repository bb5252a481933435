"""A shard: its tables, clock, epoch and dense versions, and what a push, a pull and a delta mean.

Knows no RPC and no files. Thread-safe: pulls and deltas run beside one another, a push runs alone.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.delta import Changes, Delta, ShardState, Span, Trace, cut
from parameter_server.dense import DenseStore, DenseVersion
from parameter_server.errors import CheckpointError, InvalidRequest
from parameter_server.locks import ReadWriteLock
from parameter_server.table import Counters, Table
from schema.config import ParameterServerConfig
from schema.records import F32, U64

TRACES_KEPT: Final = 4096
MAINTAIN_EVERY: Final = 16
"""Pushes between two pieces of housekeeping."""
MAINTAIN_ROWS: Final = 4096
"""Rows of each table that one piece may look at or move: well below a millisecond."""
_MEBIBYTE: Final = 1 << 20
_ID_BYTES: Final = 8
_VALUE_BYTES: Final = 4

Pairs = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""(ids, gradients) by table."""


class PushReply(NamedTuple):
    """The clock after a push, and whether it was applied or had been before."""

    clock: int
    applied: bool


@dataclass(frozen=True, slots=True)
class ShardImage:
    """All that a checkpoint keeps of a shard.

    Tombstones are not in it: a restored shard has a new epoch, so every replica takes a full snapshot.
    """

    clock: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)
    tables: Mapping[str, Columns] = field(default_factory=dict)
    dense: Mapping[str, DenseVersion] = field(default_factory=dict)


class Shard:
    """One shard of the parameter server.

    Args:
        config: the tables and bounds.
        index: which of config.shards this is.
        image: what to start from; None starts empty.
        draw_epoch: a new random number of at most 63 bits.

    Raises:
        CheckpointError: the image has a table that `config` lacks, or has with another width.
    """

    def __init__(
        self,
        config: ParameterServerConfig,
        index: int,
        image: ShardImage | None = None,
        *,
        draw_epoch: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        image = image or ShardImage()
        self.config = config
        self.index = index
        self.epoch = draw_epoch()
        self.tables = {table.name: Table(table, config.tombstones_kept) for table in config.tables}
        self.dense = DenseStore(image.dense)
        self._lock = ReadWriteLock()
        self._clock = image.clock
        self._steps = dict(image.steps)
        self._newest = 0
        self._pushes = 0
        self._traces: deque[Trace] = deque(maxlen=TRACES_KEPT)
        for name, saved in image.tables.items():
            self._load(name, saved)

    def _load(self, name: str, saved: Columns) -> None:
        table = self.tables.get(name)
        if table is None:
            raise CheckpointError(f"table {name!r}: not configured; legal are {', '.join(self.tables)}")
        if saved.vectors.shape[1] != table.config.dim:
            raise CheckpointError(
                f"table {name}: dim {saved.vectors.shape[1]} in the checkpoint; "
                f"configured is {table.config.dim}"
            )
        table.load(saved)

    def _table(self, name: str) -> Table:
        table = self.tables.get(name)
        if table is None:
            raise InvalidRequest(f"table: {name!r}; legal are {', '.join(self.tables)}")
        return table

    def pull(self, wanted: Sequence[tuple[str, NDArray[Any]]]) -> list[F32]:
        """The vectors (n, dim) of the ids uint64 (n,) of each (table, ids), all as of one clock.

        Raises:
            InvalidRequest: an unknown table or malformed ids.
        """
        tables = [self._table(name) for name, _ in wanted]
        with self._lock.reading():
            return [table.pull(ids) for table, (_, ids) in zip(tables, wanted, strict=True)]

    def push(
        self, trainer: str, step: int, pairs: Pairs, event_time: int, completed_at: Sequence[int] = ()
    ) -> PushReply:
        """Apply the gradients of one step to all tables, or to none; a step not above the last is a repeat.

        Args:
            trainer: who pushes.
            step: its step, rising by trainer.
            pairs: ids uint64 (n,) and gradients float32 (n, dim) by table.
            event_time: of the newest sample, in milliseconds.
            completed_at: wall-clock milliseconds at which samples of the step were complete.

        Raises:
            InvalidRequest: an unknown table, a wrong dtype or shape, or a gradient that is not finite.
        """
        prepared = [
            (self._table(name), self._table(name).prepare(ids, gradients))
            for name, (ids, gradients) in pairs.items()
        ]
        trace = np.array(completed_at, np.int64)
        with self._lock.writing():
            if step <= self._steps.get(trainer, -1):
                return PushReply(self._clock, applied=False)
            self._clock += 1
            for table, gradients in prepared:
                table.apply(gradients, self._clock, event_time)
            self._steps[trainer] = step
            self._traces.append(Trace(self._clock, step, trace))
            self._newest = max(self._newest, event_time)
            self._pushes += 1
            if self._pushes % MAINTAIN_EVERY == 0:
                self._maintain()
            return PushReply(self._clock, applied=True)

    def _maintain(self) -> None:
        """Expiry, budget and packing of every table, a bounded piece; the clock moves on if rows changed."""
        clock = self._clock + 1
        done = [table.maintain(self._newest, clock, MAINTAIN_ROWS) for table in self.tables.values()]
        self._clock += any(piece.changed for piece in done)

    def evict(self, table: str, ids: NDArray[Any]) -> int:
        """Remove the rows of `ids` uint64 (n,) and leave tombstones; how many rows there were.

        Raises:
            InvalidRequest: an unknown table or malformed ids.
        """
        chosen = self._table(table)
        with self._lock.writing():
            removed = chosen.remove(ids, self._clock + 1)
            self._clock += removed > 0
            return removed

    def delta(self, since: tuple[int, int] | None) -> Delta:
        """What changed since (epoch, clock); everything, if that is None, of another epoch, or too old."""
        with self._lock.reading():
            span = self._span(since)
            changes = {name: _changes(table, span) for name, table in self.tables.items()}
            steps = dict(self._steps)
            traces = tuple(trace for trace in self._traces if trace.clock > span.from_clock)
        chunks = tuple(cut(span, changes, self._rows_per_chunk()))
        return Delta(span, steps, traces, len(chunks), chunks)

    def _span(self, since: tuple[int, int] | None) -> Span:
        trimmed = max(table.tombstones.trimmed for table in self.tables.values())
        if since is not None and since[0] == self.epoch and trimmed <= since[1] <= self._clock:
            return Span(self.index, self.epoch, since[1], self._clock, full=False)
        return Span(self.index, self.epoch, 0, self._clock, full=True)

    def _rows_per_chunk(self) -> dict[str, int]:
        """So many that a chunk stays well inside a message."""
        room = self.config.max_message_mb * _MEBIBYTE // 2
        return {
            table.name: max(1, min(self.config.chunk_rows, room // (_ID_BYTES + _VALUE_BYTES * table.dim)))
            for table in self.config.tables
        }

    def digest(self, table: str) -> tuple[int, int]:
        """The clock, and the digest of the table's ids and vectors then."""
        chosen = self._table(table)
        with self._lock.reading():
            return self._clock, chosen.digest()

    def state(self) -> ShardState:
        """The epoch, the clock and each trainer's last step."""
        with self._lock.reading():
            return ShardState(self.epoch, self._clock, dict(self._steps))

    def counters(self) -> dict[str, Counters]:
        """What has happened to each table since the start."""
        with self._lock.reading():
            return {name: replace(table.counters) for name, table in self.tables.items()}

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has."""
        with self._lock.reading():
            return {name: len(table) for name, table in self.tables.items()}

    def image(self) -> ShardImage:
        """A copy of everything, as of one clock."""
        with self._lock.reading():
            tables = {name: table.changed(0) for name, table in self.tables.items()}
            return ShardImage(self._clock, dict(self._steps), tables, self.dense.all())

    def check_integrity(self) -> None:
        """Check every table; AssertionError if one is broken."""
        with self._lock.reading():
            for table in self.tables.values():
                table.check_integrity()


def _changes(table: Table, span: Span) -> Changes:
    changed = table.changed(span.from_clock)
    removed: U64 = changed.ids[:0] if span.full else table.tombstones.since(span.from_clock)
    return Changes(changed.ids, changed.vectors, removed)

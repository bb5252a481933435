"""A shard: its tables, clock, epoch and dense versions, and what a push, a pull and a delta mean.

Knows no RPC and no files. Thread-safe: pulls run beside one another, a push runs alone; deltas and
checkpoints are swept while pushes go on.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parameter_server.delta import Delta, ShardState, Span, Trace
from parameter_server.dense import DenseStore
from parameter_server.errors import CheckpointError, InvalidRequest, TrimmedError
from parameter_server.image import Marks, Saving, ShardImage
from parameter_server.locks import ReadWriteLock
from parameter_server.optimizers import Kinds
from parameter_server.stream import DeltaStream
from parameter_server.sweep import RecentChanges, Sweep, Swept
from parameter_server.table import Counters, RowState, Table
from schema.config import ParameterServerConfig
from schema.records import F32

TRACES_KEPT: Final = 4096
MAINTAIN_EVERY: Final = 16
MAINTAIN_IDS: Final = 65_536
"""After so many pushes or ids, a piece of housekeeping is due."""
MAINTAIN_ROWS: Final = 4096
"""Rows of each table that one piece may look at or move, or twice the ids pushed since the last if they are
more: well below a millisecond, and no table can outgrow it."""
_RECENT_IDS: Final = 65_536
_MEBIBYTE: Final = 1 << 20
_ID_BYTES: Final = 8
_VALUE_BYTES: Final = 4

Pairs = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]
"""(ids, gradients) by table."""


class PushReply(NamedTuple):
    """The clock after a push, and whether it was applied or had been before."""

    clock: int
    applied: bool


class FoundRow(NamedTuple):
    """One id at a clock: what its table knows of it, its last removal, and what a pull answers."""

    clock: int
    state: RowState
    removed_at: int | None
    vector: list[float]


class Shard:
    """One shard of the parameter server.

    Args:
        config: the tables and bounds.
        index: which of config.shards this is.
        image: what to start from; None starts empty.
        draw_epoch: a new random number of at most 63 bits.

    Raises:
        CheckpointError: the image cannot be read, or has a table that `config` lacks, or of another width.
    """

    def __init__(
        self,
        config: ParameterServerConfig,
        index: int,
        image: ShardImage | None = None,
        *,
        draw_epoch: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self.config = config
        self.index = index
        self._draw_epoch = draw_epoch
        self._lock = ReadWriteLock()
        self.dense = DenseStore()
        self._open: set[Sweep] = set()
        self._newest = 0
        self._pushes = self._pushed_ids = 0
        self.restore(image or ShardImage())

    def restore(self, image: ShardImage) -> None:
        """Become `image`, in a new epoch, so that every replica takes a full snapshot.

        Raises:
            CheckpointError: as when a shard starts from it; nothing was changed.
        """
        tables = _loaded(self.config, image)
        with self._lock.writing():
            self.epoch = self._draw_epoch()
            self.tables = tables
            self.dense.replace(image.marks.dense)
            self._clock = image.marks.clock
            self._steps = dict(image.marks.steps)
            self._traces: deque[Trace] = deque(maxlen=TRACES_KEPT)
            self._recent = RecentChanges(_RECENT_IDS)
            self._recent.forget(self._clock)

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
        with self._lock.reading():
            return [self._table(name).pull(ids) for name, ids in wanted]

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
        prepared = {
            name: self._table(name).prepare(ids, gradients) for name, (ids, gradients) in pairs.items()
        }
        trace = np.array(completed_at, np.int64)
        with self._lock.writing():
            if step <= self._steps.get(trainer, -1):
                return PushReply(self._clock, applied=False)
            self._clock += 1
            for name, gradients in prepared.items():
                self.tables[name].apply(gradients, self._clock, event_time)
            self._steps[trainer] = step
            self._traces.append(Trace(self._clock, trainer, step, trace))
            self._recent.add(self._clock, {name: gradients.ids for name, gradients in prepared.items()})
            self._newest = max(self._newest, event_time)
            self._pushes += 1
            self._pushed_ids += sum(len(gradients.ids) for gradients in prepared.values())
            if self._pushes >= MAINTAIN_EVERY or self._pushed_ids >= MAINTAIN_IDS:
                self._maintain(max(MAINTAIN_ROWS, 2 * self._pushed_ids))
                self._pushes = self._pushed_ids = 0
            return PushReply(self._clock, applied=True)

    def _maintain(self, rows: int) -> None:
        """Expiry, budget and packing of every table, a bounded piece; the clock moves on if rows changed."""
        clock = self._clock + 1
        done = [table.maintain(self._newest, clock, rows) for table in self.tables.values()]
        self._clock += any(piece.changed for piece in done)
        if any(piece.demoted for piece in done):
            self._recent.forget(self._clock)
        if not self._open:
            for table in self.tables.values():
                table.pack(rows)

    def evict(self, table: str, ids: NDArray[Any]) -> int:
        """Remove the rows of `ids` uint64 (n,) and leave tombstones; how many rows there were.

        Raises:
            InvalidRequest: an unknown table or malformed ids.
        """
        with self._lock.writing():
            removed = self._table(table).remove(ids, self._clock + 1)
            self._clock += removed > 0
            return removed

    def stream(self, since: tuple[int, int] | None) -> DeltaStream:
        """What changed since (epoch, clock), to be read while pushes go on.

        It is of everything if `since` is None, of another epoch, or too old.
        """
        with self._lock.reading():
            start = self._span(since)
        names = dict.fromkeys(self.tables, ("vectors",))
        stream = DeltaStream(start, self.config)

        def finish(clock: int) -> None:
            if self.epoch != start.epoch:
                raise TrimmedError(f"the shard was restored meanwhile: epoch {start.epoch} is over")
            traces = tuple(trace for trace in self._traces if trace.clock > start.from_clock)
            stream.end(clock, self._steps, traces)

        stream.sweep = Sweep(
            self._swept(), None if start.full else start.from_clock, names, self._rows_per_chunk(), finish
        )
        return stream

    def delta(self, since: tuple[int, int] | None) -> Delta:
        """`stream`, read to its end."""
        return self.stream(since).collected()

    def _span(self, since: tuple[int, int] | None) -> Span:
        trimmed = max(table.tombstones.trimmed for table in self.tables.values())
        nonce = secrets.randbits(63)
        if since is not None and since[0] == self.epoch and trimmed <= since[1] <= self._clock:
            return Span(self.index, self.epoch, since[1], self._clock, full=False, nonce=nonce)
        return Span(self.index, self.epoch, 0, self._clock, full=True, nonce=nonce)

    def _swept(self) -> Swept:
        return Swept(self.tables, self._recent, self._lock.reading, lambda: self._clock, self._open)

    def _rows_per_chunk(self) -> dict[str, int]:
        """So many that a chunk stays well inside a message."""
        room = self.config.max_message_mb * _MEBIBYTE // 2
        return {
            table.name: max(1, min(self.config.chunk_rows, room // (_ID_BYTES + _VALUE_BYTES * table.dim)))
            for table in self.config.tables
        }

    def saving(self, since: int | None, rows_per_part: int) -> Saving:
        """All that changed since the clock `since`, or everything for None, for a checkpoint.

        Iterating it raises TrimmedError where the removals since then are forgotten.
        """
        saving = Saving()

        def finish(clock: int) -> None:
            candidates = {name: table.candidates() for name, table in self.tables.items()}
            saving.marks = Marks(clock, dict(self._steps), self.dense.all(), candidates)
            saving.kept = {name: len(table) for name, table in self.tables.items()}

        names = {name: table.column_names for name, table in self.tables.items()}
        sizes = dict.fromkeys(self.tables, rows_per_part)
        saving.sweep = Sweep(self._swept(), since, names, sizes, finish)
        return saving

    def digest(self, table: str) -> tuple[int, int]:
        """The clock, and the digest of the table's ids and vectors then, as replicas hold them."""
        with self._lock.reading():
            return self._clock, self._table(table).digest(self.config.replica_rows)

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

    def tombstone_counts(self) -> dict[str, int]:
        """How many removed ids each table remembers."""
        with self._lock.reading():
            return {name: len(table.tombstones) for name, table in self.tables.items()}

    def byte_counts(self) -> dict[str, int]:
        """How much memory each table's rows take, as `memory_mb` counts it."""
        with self._lock.reading():
            return {name: table.bytes for name, table in self.tables.items()}

    def row_of(self, table: str, wanted: int) -> FoundRow:
        """All that there is of one id, as of one clock.

        Raises:
            InvalidRequest: an unknown table.
        """
        ids = np.array([wanted], np.uint64)
        with self._lock.reading():
            chosen = self._table(table)
            return FoundRow(
                self._clock,
                chosen.why(wanted),
                chosen.tombstones.last(wanted),
                chosen.pull(ids)[0].tolist(),
            )

    def check_integrity(self) -> None:
        """Check every table; AssertionError if one is broken."""
        with self._lock.reading():
            for table in self.tables.values():
                table.check_integrity()


def _loaded(config: ParameterServerConfig, image: ShardImage) -> dict[str, Table]:
    """New tables with the rows of `image`."""
    tables = {table.name: Table(table, config.tombstones_kept) for table in config.tables}
    for part in image.parts:
        table = tables.get(part.table)
        if table is None:
            raise CheckpointError(f"table {part.table!r}: not configured; legal are {', '.join(tables)}")
        kinds = image.optimizers.get(part.table)
        strange = kinds and kinds.others(Kinds.of(table.config), part.columns["ids"])
        if strange:
            raise CheckpointError(f"table {part.table}: {strange}")
        table.restore(part.removed, part.columns)
    held = {name: len(table) for name, table in tables.items()}
    if image.kept is not None and held != dict(image.kept):
        raise CheckpointError(f"rows by table: {held}; the checkpoint should have {dict(image.kept)}")
    for name, table in tables.items():
        if name in image.marks.candidates:
            table.load_candidates(*image.marks.candidates[name])
        table.tombstones.trimmed = image.marks.clock
    return tables

"""Rows by id: the index, the records and the slabs of one table.

Knows neither gradients nor clocks beyond the version that it is told to write. Not thread-safe: the shard
and the replica hold a lock around it. A record is three words: id, version (0 marks a free row), last use
and a half word more, which is the state of a row with one value of it, or its count of uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.index import CuckooIndex
from parameter_server.kernels import rows as kernels
from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.optimizers import lookup_rowwise_adagrad
from parameter_server.kernels.rows import BLOCK, HALVES, LAST_USE, OTHER, VERSION
from parameter_server.memory import Column
from parameter_server.optimizers import Optimizers
from parameter_server.placement import Fixed, Sized
from parameter_server.pool import RowPool
from schema.config import TableConfig
from schema.records import F32, I64, U64

_RECORD_BYTES: Final = 8 * RECORD
_INDEX_BYTES: Final = 10
"""Of the index, an id, at a load of 0.8."""
_PACK_FROM: Final = 1024
"""Rows below which packing is not worth its while."""
_MILLIS: Final = 1000


class RowStore:
    """A table's rows. An id without one has its first vector, a pure function of (seed, id).

    Args:
        config: the table.
        state: whether rows carry optimizer state; a replica's do not.
    """

    def __init__(self, config: TableConfig, *, state: bool) -> None:
        self.config = config
        self.optimizers = Optimizers(
            config.optimizer, {s: c.optimizer for s, c in config.slots.items() if c.optimizer is not None}
        )
        self.classes = np.array(config.classes, np.int64)
        self._index = CuckooIndex(config.capacity)
        self._pool = RowPool()
        self._column = Column(config.capacity, RECORD, np.uint64)
        self._summary = Column(-(-config.capacity // BLOCK), 0, np.uint64)
        self._placement = self._placed(state=state)
        self._placement.resize(self._column.array)

    def _placed(self, *, state: bool) -> Fixed | Sized:
        config = self.config
        state_widths = [self.optimizers.state_width(w) if state else 0 for w in config.classes]
        if len(config.classes) > 1:
            return Sized(config.classes, state_widths, config.capacity)
        in_record = (
            state and config.optimizer.kind == "rowwise_adagrad" and self.optimizers.single is not None
        )
        return Fixed(config.dim, state_widths[0], config.capacity, in_record=in_record)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def records(self) -> U64:
        """uint64 (3 * capacity,)."""
        flat: U64 = self._column.array.reshape(-1)
        return flat

    @property
    def halves(self) -> NDArray[np.uint32]:
        """The records as half words."""
        return self.records.view(np.uint32)

    @property
    def ids(self) -> U64:
        """The id of each row, a strided view (capacity,)."""
        return self._column.array[:, 0]

    @property
    def versions(self) -> U64:
        """The version of each row, a strided view (capacity,); 0 marks a free one."""
        return self._column.array[:, VERSION]

    @property
    def last_use(self) -> NDArray[np.uint32]:
        """The event time in seconds of each row's last push, a strided view (capacity,)."""
        return self.halves.reshape(-1, HALVES)[:, LAST_USE]

    @property
    def uses(self) -> NDArray[np.uint32]:
        """How many pushes each row has had, a strided view (capacity,); in tables of several widths only."""
        return self.halves.reshape(-1, HALVES)[:, OTHER]

    @property
    def used(self) -> int:
        """One above the highest row in use, or so."""
        return self._pool.used

    @property
    def sized(self) -> bool:
        """Whether rows have one of several widths."""
        return len(self.classes) > 1

    @property
    def bytes(self) -> int:
        """What the rows take: vectors, state, records and their part of the index. Free room does not count."""
        return len(self) * (_RECORD_BYTES + _INDEX_BYTES) + self._placement.bytes(len(self))

    def lookup(self, ids: U64) -> F32:
        """The vector of each id (n,), shape (n, dim), zeros behind a narrow one; creates nothing."""
        config, view = self.config, self._index.view
        if isinstance(self._placement, Sized):
            return self._lookup_sized(ids)
        out = np.empty((len(ids), config.dim), np.float32)
        kernels.lookup(
            view.old,
            view.new,
            self._index.sequence,
            self.records,
            self._placement.vectors,
            ids,
            config.seed,
            config.init_scale,
            out,
        )
        return out

    def _lookup_sized(self, ids: U64) -> F32:
        rows = self.find(ids)
        out = self.vectors(rows)
        missing = np.flatnonzero(rows < 0)
        first = self._first_vectors(ids[missing])
        out[missing, : first.shape[1]] = first
        return out

    def vectors(self, rows: I64) -> F32:
        """The vectors of `rows` (n,), shape (n, dim), zeros behind a narrow one, and for -1."""
        out = np.zeros((len(rows), self.config.dim), np.float32)
        there = np.flatnonzero(rows >= 0)
        for part in self._placement.parts(rows[there]):
            kernels.gather(part.vectors, part.rows, there[part.positions], out)
        return out

    def _first_vectors(self, ids: U64) -> F32:
        out = np.empty((len(ids), self.config.classes[0]), np.float32)
        kernels.first_vectors(ids, self.config.seed, self.config.init_scale, np.arange(len(ids)), out)
        return out

    def find(self, ids: U64) -> I64:
        """The row of each id, -1 where it has none."""
        return self._index.find(self.records, ids)

    def create(self, ids: U64, clock: int, classes: I64 | None = None) -> I64:
        """New rows for distinct ids without one, of version `clock` above 0.

        They have the first vector and fresh state. `classes` (n,) are their size classes, else the first.
        """
        rows = self._allocate(len(ids))
        self.ids[rows] = ids
        self._place(rows, np.zeros(len(ids), np.int64) if classes is None else classes)
        first = self._first_vectors(ids)
        for part in self._placement.parts(rows):
            narrow = min(first.shape[1], part.vectors.shape[1])
            part.vectors[part.rows, :narrow] = first[part.positions, :narrow]
            if part.state_rows.shape[1]:
                for rule, positions in self.optimizers.parts(ids[part.positions]):
                    start = rule.start(part.vectors[part.rows[positions]])
                    part.state_rows[part.rows[positions], : start.shape[1]] = start
        self._index.insert(self.records, rows)
        self.touch(rows, clock, 0)
        return rows

    def _place(self, rows: I64, classes: I64) -> None:
        self._placement.create(rows, classes)

    def _allocate(self, count: int) -> I64:
        rows = self._pool.take(count)
        capacity = len(self._column.array)
        while capacity < self._pool.used:
            capacity *= 2
        if capacity > len(self._column.array):
            self._resize(capacity)
        return rows

    def _resize(self, capacity: int) -> None:
        self._column.resize(capacity)
        self._summary.resize(-(-capacity // BLOCK))
        self._placement.resize(self._column.array)

    def touch(self, rows: I64, clock: int, event_second: int) -> None:
        """Set the versions of `rows` to `clock`, and raise their last use to `event_second`."""
        kernels.touch(self.records, self.halves, self._summary.array, rows, clock, event_second)

    def update(self, ids: U64, gradients: F32, clock: int, event_second: int) -> I64:
        """Update and touch the rows of distinct ids (n,) from gradients (n, dim); the row of each, or -1."""
        rule = self.optimizers.single
        if rule is not None and self._placement.in_record:
            return self._update_fused(ids, gradients, clock, event_second)
        rows = self.find(ids)
        there = np.flatnonzero(rows >= 0)
        self.update_rows(rows[there], ids[there], gradients[there], clock, event_second)
        return rows

    def _update_fused(self, ids: U64, gradients: F32, clock: int, event_second: int) -> I64:
        assert isinstance(self._placement, Fixed)  # noqa: S101 - state in records has one width
        optimizer, view = self.optimizers.rules[0].config, self._index.view
        rows = np.empty(len(ids), np.int64)
        lookup_rowwise_adagrad(
            view.old,
            view.new,
            self._index.sequence,
            self.records,
            self.halves,
            self.records.view(np.float32),
            self._summary.array,
            self._placement.vectors,
            ids,
            gradients,
            optimizer.learning_rate,
            optimizer.weight_decay,
            optimizer.epsilon,
            clock,
            event_second,
            rows,
        )
        return rows

    def update_rows(self, rows: I64, ids: U64, gradients: F32, clock: int, event_second: int) -> None:
        """Update and touch `rows` (n,), which belong to `ids` (n,), from gradients (n, dim)."""
        for part in self._placement.parts(rows):
            for rule, chosen in self.optimizers.parts(ids[part.positions]):
                places = part.positions[chosen]
                rule.update(part.vectors, part.state, part.layout, part.rows[chosen], places, gradients)
        self.touch(rows, clock, event_second)

    def upsert(self, ids: U64, vectors: F32, clock: int, widths: NDArray[np.uint16] | None = None) -> None:
        """Set vectors (n, dim) and widths (n,), else dim, of distinct ids (n,), creating missing rows."""
        classes = self._classes_of(len(ids), widths)
        rows = self.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            rows[missing] = self.create(ids[missing], clock, classes[missing])
        if self.sized:
            changed = np.flatnonzero(self._placement.classes(rows) != classes)
            self._placement.clear(rows[changed])
            self._place(rows[changed], classes[changed])
        self._set_vectors(rows, vectors)
        self.touch(rows, clock, 0)

    def _set_vectors(self, rows: I64, vectors: F32) -> None:
        for part in self._placement.parts(rows):
            part.vectors[part.rows] = vectors[part.positions, : part.vectors.shape[1]]

    def _classes_of(self, count: int, widths: NDArray[np.uint16] | None) -> I64:
        if widths is None:
            return np.full(count, len(self.classes) - 1)
        return np.searchsorted(self.classes, widths)

    def size_classes(self, rows: I64) -> I64:
        """The number of the size class of each of `rows` (n,)."""
        return self._placement.classes(rows)

    def widths(self, rows: I64) -> NDArray[np.uint16]:
        """The width of each of `rows` (n,)."""
        return self._placement.widths[self._placement.classes(rows)]

    def demotion_bytes(self, rows: I64) -> I64:
        """What each of `rows` (n,), none of the first size class, would save one class down."""
        sizes = np.array([4 * (w + self.optimizers.state_width(w)) for w in self.config.classes], np.int64)
        classes = self._placement.classes(rows)
        return sizes[classes] - sizes[classes - 1]

    def resize_rows(self, rows: I64, classes: I64) -> None:
        """Move `rows` (n,) to other size classes (n,), with their vectors and state cut or extended.

        A new block is zero, its state fresh, so that what the row gives is the same as before.
        """
        saved = [(p, p.vectors[p.rows], p.state_rows[p.rows]) for p in self._placement.parts(rows)]
        self._placement.clear(rows)
        self._place(rows, classes)
        ids = self.ids[rows]
        for old, vectors, state in saved:
            for new in self._placement.parts(rows[old.positions]):
                both = min(vectors.shape[1], new.vectors.shape[1])
                new.vectors[new.rows, :both] = vectors[new.positions, :both]
                for rule, chosen in self.optimizers.parts(ids[old.positions[new.positions]]):
                    moved = rule.resized(state[new.positions[chosen]], vectors.shape[1], new.vectors.shape[1])
                    new.state_rows[new.rows[chosen], : moved.shape[1]] = moved

    def remove(self, ids: U64) -> U64:
        """Free the rows of `ids` and reset vectors and state; the ids that had one, shape (at most n,)."""
        rows = self._index.remove(self.records, ids)
        removed = self.ids[rows]
        self._placement.clear(rows)
        self._column.array[rows] = 0
        self._pool.give(rows)
        return removed

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`, ascending."""
        rows = np.empty(len(self), np.int64)
        used = self.records[: self._pool.used * RECORD]
        count = kernels.newer_rows(used, self._summary.array, clock, rows)
        return rows[:count].copy()

    def live(self) -> I64:
        """All rows in use, ascending."""
        return self.newer(0)

    def taken(self, rows: I64) -> Columns:
        """A copy of `rows`."""
        state = np.zeros((len(rows), self.optimizers.state_width(self.config.dim)), np.float32)
        for part in self._placement.parts(rows):
            state[part.positions, : part.state_rows.shape[1]] = part.state_rows[part.rows]
        uses = self.uses[rows] if self.sized else np.zeros(len(rows), np.uint32)
        last_use = self.last_use[rows].astype(np.int64) * _MILLIS
        return Columns(
            self.ids[rows], self.vectors(rows), self.versions[rows], state, last_use, uses, self.widths(rows)
        )

    def load(self, saved: Columns) -> None:
        """Take up what `taken` returned, as new rows with the versions that they had."""
        rows = self.create(saved.ids, 1, self._classes_of(len(saved), saved.widths))
        self._set_vectors(rows, saved.vectors)
        for part in self._placement.parts(rows):
            part.state_rows[part.rows] = saved.state[part.positions, : part.state_rows.shape[1]]
        if self.sized:
            self.uses[rows] = saved.uses
        self.last_use[rows] = saved.last_use // _MILLIS
        self.versions[rows] = saved.versions
        np.maximum.at(self._summary.array, rows // BLOCK, saved.versions)

    def pack(self, limit: int) -> int:
        """Where rows are mostly free, move at most `limit` from the end forward, and give memory back."""
        self._placement.pack(limit)
        if self._pool.used < _PACK_FROM or self._pool.used < 2 * len(self):
            return 0
        sources, targets = self._pool.pack(limit)
        if len(sources):
            self._move(sources, targets)
        if self._pool.used <= len(self._column.array) // 4:
            self._resize(max(self.config.capacity, len(self._column.array) // 2))
        return len(sources)

    def _move(self, sources: I64, targets: I64) -> None:
        with self._moving():
            self._column.array[targets] = self._column.array[sources]
            self._placement.move(sources, targets)
            np.maximum.at(self._summary.array, targets // BLOCK, self.versions[targets])
            self._index.relocate(self.records, self.ids[targets], targets)
            self._column.array[sources] = 0

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Readers of the index that miss meanwhile look again."""
        self._index.sequence += np.uint64(1)
        try:
            yield
        finally:
            self._index.sequence += np.uint64(1)

    def settle(self) -> None:
        """A little of what the index has still to move."""
        self._index.advance(self.records)

    def digest(self, rows: I64 | None = None) -> int:
        """An order-independent digest of ids, widths and vector bits, of all or of `rows`; in [0, 2**64)."""
        chosen = self.live() if rows is None else rows
        total = 0
        for part in self._placement.parts(chosen):
            salt = part.vectors.shape[1] if self.sized else 0
            ids = self.ids[chosen[part.positions]]
            total += int(kernels.digest(ids, part.vectors.view(np.uint32), part.rows, salt))
        return total % (1 << 64)

    def check_integrity(self) -> None:
        """Check that index, records and free rows agree.

        Raises:
            AssertionError: they do not.
        """
        live = self.live()
        assert len(live) == len(self), f"{len(live)} live rows, {len(self)} ids"  # noqa: S101
        self._index.check_integrity(self.records, live)
        every = np.sort(np.concatenate([live, self._pool.free()]))
        assert np.array_equal(every, np.arange(self._pool.used)), "a row is lost, or free and live"  # noqa: S101
        assert not self._column.array[self._pool.free()].any(), "a free row is not reset"  # noqa: S101
        self._placement.check_integrity(live)

"""Rows by id: the index, the records and the vectors with their optimizer state, of one table.

Knows neither gradients' checks nor clocks beyond the version that it is told to write. Not thread-safe: the
shard and the replica hold a lock around it. `contents.py` takes rows out of it, and puts them in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.bookkeeping import Records
from parameter_server.index import CuckooIndex
from parameter_server.kernels import rows as kernels
from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.optimizers import find_and_update, update
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
_NO_ROWS: Final = np.empty(0, np.int64)


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
        self.records = Records(config.capacity)
        self.placement = self._placed(state=state)
        self.placement.resize(self.records.words)
        self._index = CuckooIndex(config.capacity)
        self._pool = RowPool()

    def _placed(self, *, state: bool) -> Fixed | Sized:
        config = self.config
        state_widths = [self.optimizers.state_width(w) if state else 0 for w in config.classes]
        if len(config.classes) > 1:
            return Sized(config.classes, state_widths, config.capacity)
        in_record = state and self.optimizers.scalar
        return Fixed(config.dim, state_widths[0], config.capacity, in_record=in_record)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def ids(self) -> U64:
        """The id of each row, a strided view (capacity,)."""
        return self.records.ids

    @property
    def used(self) -> int:
        """One above the highest row in use, or so."""
        return self._pool.used

    @property
    def sized(self) -> bool:
        """Whether rows have one of several widths."""
        return len(self.placement.widths) > 1

    @property
    def bytes(self) -> int:
        """What the rows take: vectors, state, records, their part of the index. Free room does not count."""
        return len(self) * (_RECORD_BYTES + _INDEX_BYTES) + self.placement.bytes(len(self))

    def lookup(self, ids: U64) -> F32:
        """The vector of each id (n,), shape (n, dim), zeros behind a narrow one; creates nothing."""
        if isinstance(self.placement, Sized):
            return self._lookup_sized(ids)
        config, view = self.config, self._index.view
        out = np.empty((len(ids), config.dim), np.float32)
        kernels.lookup(
            *view,
            self._index.sequence,
            self.records.words,
            self.placement.vectors,
            ids,
            config.seed,
            config.init_scale,
            np.empty(len(ids), np.uint64),
            np.empty(len(ids), np.int64),
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
        for part in self.placement.parts(rows[there]):
            kernels.gather(part.vectors, part.rows, there[part.positions], out)
        return out

    def _first_vectors(self, ids: U64) -> F32:
        out = np.empty((len(ids), self.config.classes[0]), np.float32)
        kernels.first_vectors(ids, self.config.seed, self.config.init_scale, np.arange(len(ids)), out)
        return out

    def find(self, ids: U64) -> I64:
        """The row of each id, -1 where it has none."""
        return self._index.find(self.records.words, ids)

    def create(self, ids: U64, clock: int, classes: I64 | None = None) -> I64:
        """New rows for distinct ids without one, of version `clock` above 0.

        They have the first vector and fresh state. `classes` (n,) are their size classes, else the first.
        """
        rows = self._allocate(len(ids))
        self.ids[rows] = ids
        self.placement.create(rows, np.zeros(len(ids), np.int64) if classes is None else classes)
        self._start(rows, ids)
        self._index.insert(self.records.words, rows)
        self.records.touch(rows, clock, 0)
        return rows

    def _allocate(self, count: int) -> I64:
        rows = self._pool.take(count)
        capacity = len(self.records)
        while capacity < self._pool.used:
            capacity *= 2
        if capacity > len(self.records):
            self._resize(capacity)
        return rows

    def _start(self, rows: I64, ids: U64) -> None:
        first = self._first_vectors(ids)
        for part in self.placement.parts(rows):
            narrow = min(first.shape[1], part.vectors.shape[1])
            part.vectors[part.rows, :narrow] = first[part.positions, :narrow]
            if part.state_rows.shape[1]:
                for rule, chosen in self.optimizers.parts(ids[part.positions]):
                    start = rule.start(part.vectors[part.rows[chosen]])
                    part.state_rows[part.rows[chosen], : start.shape[1]] = start

    def _resize(self, capacity: int) -> None:
        self.records.resize(capacity)
        self.placement.resize(self.records.words)

    def update(self, ids: U64, gradients: F32, clock: int, event_second: int) -> tuple[I64, I64]:
        """Update and touch the rows of distinct ids (n,) from gradients (n, dim).

        Returns:
            The row of each id, -1 where it has none; and where those without one are.
        """
        if self.optimizers.single is not None and isinstance(self.placement, Fixed):
            return self._update_fused(self.placement, ids, gradients, clock, event_second)
        rows = self.find(ids)
        there = np.flatnonzero(rows >= 0)
        self.update_rows(rows[there], ids[there], gradients[there], clock, event_second)
        return rows, np.flatnonzero(rows < 0)

    def _update_fused(
        self, placement: Fixed, ids: U64, gradients: F32, clock: int, event_second: int
    ) -> tuple[I64, I64]:
        rule, records = self.optimizers.rules[0], self.records
        rows = np.empty(len(ids), np.int64)
        missing = find_and_update(
            *self._index.view,
            self._index.sequence,
            records.words,
            records.halves,
            records.summary,
            ids,
            rule.kernel,
            placement.vectors,
            *placement.state,
            gradients,
            *rule.parameters,
            clock,
            event_second,
            np.empty(len(ids), np.uint64),
            rows,
        )
        return rows, np.flatnonzero(rows < 0) if missing else _NO_ROWS

    def update_rows(self, rows: I64, ids: U64, gradients: F32, clock: int, event_second: int) -> None:
        """Update and touch `rows` (n,), which belong to `ids` (n,), from gradients (n, dim)."""
        for part in self.placement.parts(rows):
            for rule, chosen in self.optimizers.parts(ids[part.positions]):
                places, given = part.positions[chosen], gradients
                if self.sized and rule.config.clip_norm is not None:
                    given = clipped_rows(gradients[places, : part.vectors.shape[1]], rule.config.clip_norm)
                    places = np.arange(len(places))
                update(
                    rule.kernel,
                    part.vectors,
                    *part.state,
                    part.rows[chosen],
                    places,
                    given,
                    *rule.parameters,
                )
        self.records.touch(rows, clock, event_second)

    def classes_of(self, widths: NDArray[np.uint16]) -> I64:
        """The number of the size class of each of `widths` (n,)."""
        return np.searchsorted(self.placement.widths, widths)

    def widths(self, rows: I64) -> NDArray[np.uint16]:
        """The width of each of `rows` (n,)."""
        return self.placement.widths[self.placement.classes(rows)]

    def demotion_bytes(self, rows: I64) -> I64:
        """What each of `rows` (n,), none of the first size class, would save one class down."""
        sizes = np.array([4 * (w + self.optimizers.state_width(w)) for w in self.config.classes], np.int64)
        classes = self.placement.classes(rows)
        return sizes[classes] - sizes[classes - 1]

    def remove(self, ids: U64) -> U64:
        """Free the rows of `ids` and reset vectors and state; the ids that had one, shape (at most n,)."""
        rows = self._index.remove(self.records.words, ids)
        removed = self.ids[rows]
        self.placement.clear(rows)
        self.records.free(rows)
        self._pool.give(rows)
        return removed

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`, ascending; needs no lock while no row moves."""
        return self.records.newer(clock, self._pool.used)

    def live(self) -> I64:
        """All rows in use, ascending."""
        return self.newer(0)

    def advance_index(self) -> None:
        """Move a chunk of an index that is on its way to another size."""
        self._index.advance(self.records.words)

    def pack(self, limit: int) -> None:
        """Where rows are mostly free, move at most `limit` from the end forward, and give memory back."""
        self.placement.pack(limit)
        if self._pool.used < max(_PACK_FROM, 2 * len(self)):
            return
        sources, targets = self._pool.pack(limit)
        if len(sources):
            self._move(sources, targets)
        if self._pool.used <= len(self.records) // 4:
            self._resize(max(self.config.capacity, len(self.records) // 2))

    def _move(self, sources: I64, targets: I64) -> None:
        with self._moving():
            self.records.copy(sources, targets)
            self.placement.move(sources, targets)
            self._index.relocate(self.records.words, self.ids[targets], targets)
            self.records.free(sources)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Readers of the index that miss meanwhile look again."""
        self._index.sequence += np.uint64(1)
        try:
            yield
        finally:
            self._index.sequence += np.uint64(1)

    def check_integrity(self) -> None:
        """Check that index, records and free rows agree.

        Raises:
            AssertionError: they do not.
        """
        live, free = self.live(), self._pool.free()
        assert len(live) == len(self), f"{len(live)} live rows, {len(self)} ids"  # noqa: S101
        self._index.check_integrity(self.records.words, live)
        every = np.sort(np.concatenate([live, free]))
        assert np.array_equal(every, np.arange(self._pool.used)), "a row is lost, or free and live"  # noqa: S101
        self.records.check_free(free)
        self.placement.check_integrity(live)


def clipped_rows(gradients: F32, norm: float) -> F32:
    """A copy of the rows (n, w), each of them scaled so that its norm is at most `norm`."""
    clipped = np.array(gradients, order="C")
    kernels.clip_rows(clipped, clipped.copy(), norm)
    return clipped

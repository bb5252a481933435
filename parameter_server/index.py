"""The cuckoo index of one table as an object: it owns the slots, and grows and shrinks them bit by bit.

Knows no vectors. The ids lie in the table's records, which are passed in: the index holds tags and rows.
One writer at a time; `find` may run beside it, without a lock, as long as the records are not replaced.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from parameter_server.kernels import cuckoo, search
from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.hashing import ROW_MASK, SLOTS, TAG_SHIFT
from parameter_server.memory import aligned_zeros
from schema.records import I64, U64

_MIN_SLOTS: Final = 4 * SLOTS
_TARGET_LOAD: Final = 0.9
_SHRINK_BELOW: Final = 0.2
"""The load at which the slots are halved; far from what growth leaves, so that the two never alternate."""
_CHUNK: Final = 8192
"""Slots that one operation moves while the index changes its size, at least."""
_CHUNK_PER_ID: Final = 8


class View(NamedTuple):
    """The arrays to search. `old` is empty but while entries move from it to `new`."""

    old: U64
    new: U64


class CuckooIndex:
    """Finds the row of an id in two buckets of four entries.

    Args:
        capacity: how many ids it should hold before it first grows.
        chunk: how many slots one operation moves, at least, while the index changes its size.
    """

    def __init__(self, capacity: int, chunk: int = _CHUNK) -> None:
        slots = _MIN_SLOTS
        while slots * _TARGET_LOAD < capacity:
            slots *= 2
        self._chunk = chunk
        self._moved = 0
        self._count = 0
        self.sequence: U64 = np.zeros(1, np.uint64)
        """Odd while an entry moves within an array; readers that miss look again."""
        self.view = View(_none(), aligned_zeros((slots,), np.uint64))

    def __len__(self) -> int:
        return self._count

    @property
    def load(self) -> float:
        """The ids over the slots that there are, or will be once a change of size is through."""
        return self._count / len(self.view.new)

    def find(self, records: U64, wanted: U64) -> I64:
        """The row of each id of `wanted` (n,), -1 where absent; never -1 for one that is there throughout."""
        hashes, rows = np.empty(len(wanted), np.uint64), np.empty(len(wanted), np.int64)
        while True:
            view = self.view
            search.find(view.old, view.new, self.sequence, records, wanted, hashes, rows)
            if self.view is view or not (rows < 0).any():
                return rows

    def insert(self, records: U64, rows: I64) -> None:
        """Enter the ids of `rows`, distinct and none of them present; grows when one finds no slot."""
        self._advance(records, len(rows))
        done = cuckoo.insert(self.view.new, self.sequence, records, rows, 0)
        while done < len(rows):
            self._grow(records)
            done = cuckoo.insert(self.view.new, self.sequence, records, rows, done)
        self._count += len(rows)

    def remove(self, records: U64, unwanted: U64) -> I64:
        """Take ids out; the rows that they had, shape (at most n,). Halves the slots when most are empty."""
        rows = np.empty(len(unwanted), np.int64)
        cuckoo.remove(self.view.old, self.view.new, records, unwanted, rows)
        removed: I64 = rows[rows >= 0]
        self._count -= len(removed)
        self._advance(records, len(removed))
        if not self.changing and self.load < _SHRINK_BELOW and len(self.view.new) > _MIN_SLOTS:
            self._change(len(self.view.new) // 2)
        return removed

    def relocate(self, records: U64, ids: U64, rows: I64) -> None:
        """Say that `ids` (n,), all present, are now at `rows` (n,), whose records already name them."""
        cuckoo.relocate(self.view.old, self.view.new, records, ids, rows)

    @property
    def changing(self) -> bool:
        """Whether entries are on their way to an array of another size."""
        return len(self.view.old) > 0

    def advance(self, records: U64) -> None:
        """Move one chunk of a change of size; for quiet times, since inserts and removals do it too."""
        self._advance(records, 0)

    def _advance(self, records: U64, ids: int) -> None:
        if not self.changing:
            return
        old, new = self.view
        stop = min(self._moved + max(self._chunk, _CHUNK_PER_ID * ids), len(old))
        self._moved = cuckoo.migrate(old, new, self.sequence, records, self._moved, stop)
        if self._moved < stop:
            self._rebuild(records)
        elif stop == len(old):
            self.view = View(_none(), new)

    def _change(self, slots: int) -> None:
        self._moved = 0
        self.view = View(self.view.new, aligned_zeros((slots,), np.uint64))

    def _grow(self, records: U64) -> None:
        if self.changing:
            self._rebuild(records)
        else:
            self._change(2 * len(self.view.new))
            self._advance(records, 0)

    def _rebuild(self, records: U64) -> None:
        """Enter everything into a larger array at once: only if inserts outran a change of size."""
        size = 2 * len(self.view.new)
        while True:
            larger = aligned_zeros((size,), np.uint64)
            if all(_copied(part, larger, records) for part in self.view):
                self._moved = 0
                self.view = View(_none(), larger)
                return
            size *= 2

    def check_integrity(self, records: U64, live: I64) -> None:
        """Check that exactly the rows of `live` are entered, each once and where `find` looks.

        Raises:
            AssertionError: they are not.
        """
        every = np.concatenate(self.view)
        entries = every[every != cuckoo.EMPTY]
        rows = (entries & ROW_MASK).astype(np.int64)
        assert len(rows) == self._count, f"{len(rows)} entries, {self._count} counted"  # noqa: S101
        assert np.array_equal(np.sort(rows), np.sort(live)), "entries are not the live rows"  # noqa: S101
        found = self.find(records, records[::RECORD][live])
        assert np.array_equal(found, live), "a live id is not found"  # noqa: S101
        assert (entries >> TAG_SHIFT != 0).all(), "an entry has no tag"  # noqa: S101


def _none() -> U64:
    return np.empty(0, np.uint64)


def _copied(part: U64, larger: U64, records: U64) -> bool:
    """Enter a copy of `part`, so that readers beside still find all of it there."""
    return bool(
        cuckoo.migrate(part.copy(), larger, np.zeros(1, np.uint64), records, 0, len(part)) == len(part)
    )

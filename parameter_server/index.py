"""The cuckoo index of one table as an object: it owns the slots and doubles them when an insert fails.

Knows no vectors. The ids lie in the table's own column, which is passed in: the index holds tags and rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from parameter_server.columns import aligned_zeros
from parameter_server.kernels import cuckoo
from parameter_server.kernels.hashing import ROW_MASK, SLOTS, TAG_SHIFT
from schema.records import I64, U64

_MIN_BUCKETS: Final = 4
_TARGET_LOAD: Final = 0.9


class CuckooIndex:
    """Finds the row of an id in two buckets of four entries.

    Args:
        capacity: how many ids it should hold before it first doubles.
    """

    def __init__(self, capacity: int) -> None:
        buckets = _MIN_BUCKETS
        while buckets * SLOTS * _TARGET_LOAD < capacity:
            buckets *= 2
        self.slots: U64 = aligned_zeros((buckets * SLOTS,), np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def load(self) -> float:
        """The share of the slots that is taken."""
        return self._count / len(self.slots)

    def find(self, ids: U64, wanted: U64) -> I64:
        """The row of each id of `wanted` (n,), -1 where absent; `ids` is the table's id column."""
        rows = np.empty(len(wanted), np.int64)
        cuckoo.find(self.slots, ids, wanted, rows)
        return rows

    def insert(self, ids: U64, rows: I64) -> None:
        """Enter the ids of `rows`, distinct and none of them present; doubles as often as it must."""
        done = cuckoo.insert(self.slots, ids, rows, 0)
        while done < len(rows):
            self._double(ids)
            done = cuckoo.insert(self.slots, ids, rows, done)
        self._count += len(rows)

    def remove(self, ids: U64, unwanted: U64) -> I64:
        """Take ids out; the rows that they had, shape (at most n,)."""
        rows = np.empty(len(unwanted), np.int64)
        cuckoo.remove(self.slots, ids, unwanted, rows)
        removed: I64 = rows[rows >= 0]
        self._count -= len(removed)
        return removed

    def _double(self, ids: U64) -> None:
        size = 2 * len(self.slots)
        slots = aligned_zeros((size,), np.uint64)
        while not cuckoo.rehash(self.slots, slots, ids):
            size *= 2
            slots = aligned_zeros((size,), np.uint64)
        self.slots = slots

    def check_integrity(self, ids: U64, live: I64) -> None:
        """Check that exactly the rows of `live` are entered, each once and where `find` looks.

        Raises:
            AssertionError: they are not.
        """
        entries = self.slots[self.slots != cuckoo.EMPTY]
        rows = (entries & ROW_MASK).astype(np.int64)
        assert len(rows) == self._count, f"{len(rows)} entries, {self._count} counted"  # noqa: S101
        assert np.array_equal(np.sort(rows), np.sort(live)), "entries are not the live rows"  # noqa: S101
        assert np.array_equal(self.find(ids, ids[live]), live), "a live id is not found"  # noqa: S101
        assert (entries >> TAG_SHIFT != 0).all(), "an entry has no tag"  # noqa: S101

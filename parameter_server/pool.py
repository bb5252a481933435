"""Which rows of an array are free, and how to pack those in use. Knows numbers only."""

from __future__ import annotations

from typing import Final

import numpy as np

from schema.records import I64

_FIRST: Final = 64


class RowPool:
    """Hands out row numbers, freed ones first, then the next unused.

    `used` is one above the highest row ever handed out since the last `pack`.
    """

    def __init__(self) -> None:
        self.used = 0
        self._free: I64 = np.empty(_FIRST, np.int64)
        self._count = 0

    def __len__(self) -> int:
        """How many rows are handed out."""
        return self.used - self._count

    def take(self, count: int) -> I64:
        """`count` row numbers, which may reach up to the new `used`."""
        reused = min(count, self._count)
        self._count -= reused
        fresh = count - reused
        self.used += fresh
        return np.concatenate(
            [
                self._free[self._count : self._count + reused],
                np.arange(self.used - fresh, self.used, dtype=np.int64),
            ]
        )

    def give(self, rows: I64) -> None:
        """Take back `rows` (n,), distinct and handed out."""
        needed = self._count + len(rows)
        if needed > len(self._free):
            larger = np.empty(max(needed, 2 * len(self._free)), np.int64)
            larger[: self._count] = self._free[: self._count]
            self._free = larger
        self._free[self._count : needed] = rows
        self._count = needed

    def free(self) -> I64:
        """The free rows below `used`."""
        return self._free[: self._count].copy()

    def pack(self, limit: int) -> tuple[I64, I64]:
        """Cut at most `limit` rows off the end; what must move for that, from (n,) and to (n,).

        Nothing is cut if there is not enough room before. The caller moves the rows at once.
        """
        free = np.sort(self._free[: self._count], kind="stable")
        start = max(0, self.used - limit)
        below = int(np.searchsorted(free, start))
        sources = np.setdiff1d(np.arange(start, self.used), free[below:], assume_unique=True)
        if len(sources) > below:
            return free[:0], free[:0]
        targets = free[: len(sources)]
        kept = free[len(sources) : below][::-1]
        self.used = start
        self._count = len(kept)
        self._free[: self._count] = kept
        return sources, targets

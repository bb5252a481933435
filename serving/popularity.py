"""What is popular now: counts of actions by item that halve every half-life of event time.

Pure: knows no topic and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.records import I64

F64 = NDArray[np.float64]

MAX_ITEMS: Final = 1_000_000
SAVED_ITEMS: Final = 5_000
"""A restart remembers this many; what is less popular has to become popular again."""
_FIRST_ROWS: Final = 1024


class Popularity:
    """Decayed counts without a sweep: an action of weight w at time t adds w * 2**(t / half-life).

    Every item decays at the same rate, so that sum orders the items at any moment, and dividing by
    2**(now / half-life) gives the count decayed to now. Sums are kept as base-2 logarithms, so they cannot
    overflow; with t in Unix milliseconds and half-lives from a second up they lose less than 1e-6.

    Args:
        half_life_seconds: above 0.
        max_items: beyond this many items, the less popular half is forgotten.
    """

    def __init__(self, half_life_seconds: float, max_items: int = MAX_ITEMS) -> None:
        self._half_life_ms = half_life_seconds * 1000.0
        self._max_items = max_items
        self._row_of: dict[int, int] = {}
        self._ids: I64 = np.empty(_FIRST_ROWS, np.int64)
        self._logs: F64 = np.empty(_FIRST_ROWS)

    def __len__(self) -> int:
        return len(self._row_of)

    @property
    def signature(self) -> bytes:
        """What a saved state is good for: counts by another half-life are on another scale."""
        return f"{self._half_life_ms:g}".encode()

    def add(self, items: Sequence[int], weights: Sequence[float], times: Sequence[int]) -> None:
        """Count actions on `items`, of `weights` above 0, at `times` in Unix ms; all of shape (n,)."""
        rows = np.array([self._row(item) for item in items], np.intp)
        np.logaddexp2.at(self._logs, rows, np.log2(weights) + np.asarray(times) / self._half_life_ms)
        if len(self) > self._max_items:
            self._forget_half()

    def count(self, item: int, at: int) -> float:
        """The count of `item`, decayed to `at` in Unix ms."""
        row = self._row_of.get(item)
        return 0.0 if row is None else float(np.exp2(self._logs[row] - at / self._half_life_ms))

    def top(self, count: int) -> list[int]:
        """The `count` most popular items, the most popular first, or all where there are fewer."""
        known = len(self)
        logs, ids = self._logs[:known], self._ids[:known]
        best = np.argpartition(-logs, count)[:count] if count < known else np.arange(known)
        order = np.lexsort((ids[best], -logs[best]))
        chosen: list[int] = ids[best[order]].tolist()
        return chosen

    def state(self) -> bytes:
        """The SAVED_ITEMS most popular items with their counts, for `restore`."""
        kept = self.top(SAVED_ITEMS)
        rows = [self._row_of[item] for item in kept]
        return np.array(kept, "<i8").tobytes() + self._logs[rows].astype("<f8").tobytes()

    def restore(self, state: bytes) -> None:
        """Take the place of whatever was counted; empty bytes for nothing."""
        ids, logs = np.split(np.frombuffer(state, "<i8"), 2)
        self._row_of = {int(item): row for row, item in enumerate(ids)}
        room = max(_FIRST_ROWS, len(ids))
        self._ids, self._logs = np.empty(room, np.int64), np.empty(room)
        self._ids[: len(ids)], self._logs[: len(ids)] = ids, logs.view("<f8")

    def _row(self, item: int) -> int:
        row = self._row_of.get(item)
        if row is None:
            row = self._row_of[item] = len(self._row_of)
            if row == len(self._ids):
                self._ids = np.concatenate((self._ids, np.empty_like(self._ids)))
                self._logs = np.concatenate((self._logs, np.empty_like(self._logs)))
            self._ids[row], self._logs[row] = item, -np.inf
        return row

    def _forget_half(self) -> None:
        kept = self.top(self._max_items // 2)
        logs = self._logs[[self._row_of[item] for item in kept]]
        self._row_of = {item: row for row, item in enumerate(kept)}
        self._ids[: len(kept)], self._logs[: len(kept)] = kept, logs

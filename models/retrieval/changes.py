"""Which rows of a table have changed since when, and the table anew from all of it and what changed since.

Knows no columns: a cell is so many bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


class Changes:
    """When each row was touched last, counted in marks."""

    def __init__(self) -> None:
        self._touched: I64 = np.zeros(0, np.int64)
        self._now = 1

    def touch(self, rows: I64) -> None:
        """`rows` (n,) change, after the last mark."""
        if not len(rows):
            return
        most = int(rows.max()) + 1
        if most > len(self._touched):
            more = max(most, 2 * len(self._touched)) - len(self._touched)
            self._touched = np.concatenate([self._touched, np.zeros(more, np.int64)])
        self._touched[rows] = self._now

    def mark(self) -> int:
        """A mark between what has been touched and what will be."""
        self._now += 1
        return self._now - 1

    def since(self, mark: int) -> I64:
        """The rows touched after `mark`, ascending."""
        return np.flatnonzero(self._touched > mark)


def patched(parts: Sequence[tuple[I64 | None, bytes]], rows: int, blank: bytes) -> bytes:
    """A column of `rows` cells, as many bytes each as `blank`, which is what cells have that no part has.

    Args:
        parts: rows (n,), ascending, and their n cells, each part after the one before; for None the cells of
            all rows that there were.
        rows: how many there are now.
        blank: the content of a cell that nothing was ever put in.

    Raises:
        ValueError: a part has not as many cells as rows, or a row that there is not.
    """
    kind = np.dtype((np.void, len(blank)))
    column = np.frombuffer(blank, kind).repeat(rows)
    for at, cells in parts:
        values = np.frombuffer(cells, kind)
        places = np.arange(len(values)) if at is None else at
        if len(places) != len(values) or (len(places) and not 0 <= places[0] <= places[-1] < rows):
            raise ValueError(f"{len(values)} cells for {len(places)} rows; legal are rows below {rows}")
        column[places] = values
    return column.tobytes()

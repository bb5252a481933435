"""The memory of a table's rows: one aligned array a column, grown by copying into a larger one.

Knows neither ids nor optimizers. Fresh memory is zeroed by the system as it is first touched, so that
capacity which is not used yet costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from schema.records import F32, I64, U64

_ALIGNMENT: Final = 64
"""Bytes: a cache line. A base that is off by 16 makes every row straddle two of them."""


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A zeroed C array whose first element starts a cache line."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(kind).reshape(shape)


@dataclass(slots=True)
class Columns:
    """n rows: ids (n,), vectors (n, dim), versions (n,) where 0 marks a free row, and optimizer state.

    A table without state (a replica's) has no elements in `accumulators` (n,) and `last_use` (n,), the
    event time in milliseconds of a row's last push.
    """

    ids: U64
    vectors: F32
    versions: U64
    accumulators: F32
    last_use: I64

    @classmethod
    def zeros(cls, rows: int, dim: int, *, state: bool) -> Columns:
        """Zeroed columns of `rows` rows."""
        state_rows = rows if state else 0
        return cls(
            ids=aligned_zeros((rows,), np.uint64),
            vectors=aligned_zeros((rows, dim), np.float32),
            versions=aligned_zeros((rows,), np.uint64),
            accumulators=aligned_zeros((state_rows,), np.float32),
            last_use=aligned_zeros((state_rows,), np.int64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def grown(self, rows: int) -> Columns:
        """A copy with room for `rows` rows, the new ones zeroed."""
        larger = Columns.zeros(rows, self.vectors.shape[1], state=len(self.accumulators) > 0)
        for name in self.__slots__:
            old = getattr(self, name)
            getattr(larger, name)[: len(old)] = old
        return larger

    def taken(self, rows: I64) -> Columns:
        """A copy of the rows at `rows`, in that order."""
        state_rows = rows if len(self.accumulators) else rows[:0]
        return Columns(
            ids=self.ids[rows],
            vectors=self.vectors[rows],
            versions=self.versions[rows],
            accumulators=self.accumulators[state_rows],
            last_use=self.last_use[state_rows],
        )

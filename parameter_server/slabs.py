"""The memory of the vectors and optimizer state of one size class. Knows no ids."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.memory import Column
from parameter_server.pool import RowPool
from schema.records import F32, I64

_FIRST_ROWS: Final = 256


class Slab:
    """Rows of vectors, `width` wide, each with `state_width` values of state.

    Args:
        width: of the vectors.
        state_width: float32 values of state a row; 0 keeps none.
        rows: how many to start with.
    """

    def __init__(self, width: int, state_width: int, rows: int) -> None:
        self.width = width
        self.state_width = state_width
        self._vectors = Column(rows, width, np.float32)
        self._state = Column(rows * state_width, 0, np.float32)

    @property
    def vectors(self) -> F32:
        """float32 (rows, width)."""
        return self._vectors.array

    @property
    def state(self) -> F32:
        """float32 (rows * state_width,): a row's values lie together."""
        return self._state.array

    @property
    def state_rows(self) -> F32:
        """`state` as (rows, state_width)."""
        if not self.state_width:
            return np.empty((len(self.vectors), 0), np.float32)
        return self._state.array.reshape(-1, self.state_width)

    def resize(self, rows: int) -> None:
        """Keep the first `rows` rows, or add zeroed ones."""
        self._vectors.resize(rows)
        self._state.resize(rows * self.state_width)

    def move(self, sources: I64, targets: I64) -> None:
        """Copy rows and zero where they were."""
        self.vectors[targets] = self.vectors[sources]
        self.state_rows[targets] = self.state_rows[sources]
        self.clear(sources)

    def clear(self, rows: I64) -> None:
        """Zero vectors and state."""
        self.vectors[rows] = 0
        self.state_rows[rows] = 0


class OwnedSlab(Slab):
    """A slab that hands out its rows itself, and knows the record that owns each: one of several classes."""

    def __init__(self, width: int, state_width: int) -> None:
        super().__init__(width, state_width, _FIRST_ROWS)
        self._pool = RowPool()
        self._owners = Column(_FIRST_ROWS, 0, np.int64)

    def __len__(self) -> int:
        return len(self._pool)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The record of each row."""
        return self._owners.array

    def take(self, owners: I64) -> I64:
        """Rows, zeroed, for the records `owners` (n,)."""
        rows = self._pool.take(len(owners))
        room = len(self.vectors)
        while room < self._pool.used:
            room *= 2
        if room > len(self.vectors):
            self.resize(room)
            self._owners.resize(room)
        self.owners[rows] = owners
        return rows

    def give(self, rows: I64) -> None:
        """Zero and free rows."""
        self.clear(rows)
        self._pool.give(rows)

    def pack(self, limit: int) -> tuple[I64, I64]:
        """Move at most `limit` rows from the end forward, if mostly free; their owners and new rows."""
        if self._pool.used < max(2 * _FIRST_ROWS, 2 * len(self._pool)):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        sources, targets = self._pool.pack(limit)
        owners = self.owners[sources]
        self.move(sources, targets)
        self.owners[targets] = owners
        if self._pool.used <= len(self.vectors) // 4:
            self.resize(len(self.vectors) // 2)
            self._owners.resize(len(self.vectors))
        return owners, targets

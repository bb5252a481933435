"""Rows by id: the index, the columns and the free rows of one table, without an optimizer.

Knows neither gradients nor clocks beyond the version that it is told to write. Not thread-safe: the shard
and the replica hold a lock around it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.errors import InvalidRequest
from parameter_server.index import CuckooIndex
from parameter_server.kernels import batches
from parameter_server.kernels import rows as kernels
from schema.config import TableConfig
from schema.records import F32, I64, U64


class RowStore:
    """A table's rows. An id without one has its first vector, a pure function of (seed, id).

    Args:
        config: the table.
        state: whether rows carry optimizer state and last use; a replica's do not.
    """

    def __init__(self, config: TableConfig, *, state: bool) -> None:
        self.config = config
        self.columns = Columns.zeros(config.capacity, config.dim, state=state)
        self._index = CuckooIndex(config.capacity)
        self._free: list[int] = []
        self._used = 0

    def __len__(self) -> int:
        return len(self._index)

    @property
    def index_bytes(self) -> int:
        """How many bytes the index takes."""
        return self._index.slots.nbytes

    def lookup(self, ids: U64) -> F32:
        """The vector of each id (n,), shape (n, dim); creates nothing."""
        out = np.empty((len(ids), self.config.dim), np.float32)
        kernels.lookup(
            self._index.slots,
            self.columns.ids,
            self.columns.vectors,
            ids,
            self.config.seed,
            self.config.init_scale,
            out,
        )
        return out

    def find(self, ids: U64) -> I64:
        """The row of each id, -1 where it has none."""
        return self._index.find(self.columns.ids, ids)

    def find_or_create(self, ids: U64, clock: int) -> tuple[I64, I64]:
        """The row of each of the distinct `ids` (n,), and those rows that are new.

        New rows have the first vector, version `clock` (above 0) and whatever state their last owner left.
        """
        rows = self.find(ids)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            rows[missing] = self._create(ids[missing], clock)
        return rows, rows[missing]

    def upsert(self, ids: U64, vectors: F32, clock: int) -> None:
        """Set the vectors (n, dim) of distinct ids (n,), creating the rows that are missing."""
        rows, _ = self.find_or_create(ids, clock)
        self.columns.vectors[rows] = vectors
        self.columns.versions[rows] = clock

    def _create(self, ids: U64, clock: int) -> I64:
        rows = self._allocate(len(ids))
        self.columns.ids[rows] = ids
        self.columns.versions[rows] = clock
        config = self.config
        kernels.first_vectors(ids, config.seed, config.init_scale, rows, self.columns.vectors)
        self._index.insert(self.columns.ids, rows)
        return rows

    def _allocate(self, count: int) -> I64:
        """Free rows first, then untouched ones, doubling the columns where these run out."""
        kept = max(0, len(self._free) - count)
        reused = self._free[kept:]
        del self._free[kept:]
        fresh = count - len(reused)
        capacity = len(self.columns)
        while capacity < self._used + fresh:
            capacity *= 2
        if capacity > len(self.columns):
            self.columns = self.columns.grown(capacity)
        self._used += fresh
        return np.concatenate(
            [np.array(reused, np.int64), np.arange(self._used - fresh, self._used, dtype=np.int64)]
        )

    def remove(self, ids: U64) -> U64:
        """Free the rows of `ids`; the ids that had one, shape (at most n,)."""
        rows = self._index.remove(self.columns.ids, ids)
        self.columns.versions[rows] = 0
        self._free.extend(rows.tolist())
        return self.columns.ids[rows]

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`, ascending."""
        versions = self.columns.versions[: self._used]
        rows = np.empty(len(versions), np.int64)  # memory that is not written costs nothing
        return rows[: kernels.newer_rows(versions, clock, rows)].copy()

    def live(self) -> I64:
        """All rows in use, ascending."""
        return self.newer(0)

    def digest(self, rows: I64 | None = None) -> int:
        """An order-independent digest of ids and vector bits, of all rows or of `rows`; in [0, 2**64)."""
        chosen = self.live() if rows is None else rows
        return int(kernels.digest(self.columns.ids, self.columns.vectors.view(np.uint32), chosen))

    def check_integrity(self) -> None:
        """Check that index, columns and free rows agree.

        Raises:
            AssertionError: they do not.
        """
        live = self.live()
        self._index.check_integrity(self.columns.ids, live)
        free = np.array(self._free, np.int64)
        every = np.sort(np.concatenate([live, free]))
        assert np.array_equal(every, np.arange(self._used)), "a row is lost, or both free and live"  # noqa: S101


def checked_ids(name: str, ids: NDArray[np.generic]) -> U64:
    """`ids` as the kernels take them.

    Raises:
        InvalidRequest: they are not a 1-D array of uint64.
    """
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise InvalidRequest(f"table {name}: ids: {ids.dtype} {ids.shape}; legal is uint64 (n,)")
    return np.require(ids, np.uint64, ["C_CONTIGUOUS", "ALIGNED"])


def checked_rows(name: str, what: str, values: NDArray[np.generic], rows: int, dim: int) -> F32:
    """`values` as the kernels take them.

    Raises:
        InvalidRequest: they are not float32 of shape (rows, dim).
    """
    if values.dtype != np.float32 or values.shape != (rows, dim):
        raise InvalidRequest(
            f"table {name}: {what}: {values.dtype} {values.shape}; legal is float32 {(rows, dim)}"
        )
    return np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def distinct(ids: U64) -> tuple[I64, I64]:
    """Where each distinct id first occurs, shape (m,), and the number of each position's id, shape (n,)."""
    firsts, groups = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    count = batches.group(ids, firsts, groups)
    return firsts[:count], groups

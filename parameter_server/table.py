"""One embedding table of a shard: rows that learn by row-wise Adagrad, and the tombstones of those removed.

Knows no network and no lock. `prepare` checks a push without changing anything, `apply` cannot fail, so
that a push over several tables happens wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.digests import digest_vectors
from parameter_server.errors import InvalidRequest
from parameter_server.kernels import batches
from parameter_server.kernels import rows as kernels
from parameter_server.store import RowStore, checked_ids, checked_rows, distinct
from parameter_server.sweep import Arrays
from parameter_server.tombstones import TombstoneLog
from schema.config import ReplicaRows, TableConfig
from schema.records import F32, I64, U64


@dataclass(frozen=True, slots=True)
class Gradients:
    """The checked gradients of one push to one table: ids (n,) are distinct, values (n, dim) are finite."""

    ids: U64
    values: F32


class Table:
    """Rows by id with versions and optimizer state.

    Args:
        config: name, width, optimizer, seed and first capacity.
        tombstones_kept: how many removed ids are remembered for deltas.
    """

    def __init__(self, config: TableConfig, tombstones_kept: int) -> None:
        self.config = config
        self._rows = RowStore(config, state=True)
        self.tombstones = TombstoneLog(tombstones_kept)

    def __len__(self) -> int:
        return len(self._rows)

    def pull(self, ids: NDArray[np.generic]) -> F32:
        """The vector of each id uint64 (n,), float32 (n, dim). Creates nothing.

        Raises:
            InvalidRequest: `ids` has another dtype or shape.
        """
        return self._rows.lookup(checked_ids(self.config.name, ids))

    def prepare(self, ids: NDArray[np.generic], gradients: NDArray[np.generic]) -> Gradients:
        """Check a push and sum the gradients of equal ids.

        Args:
            ids: uint64 (n,), repeats allowed.
            gradients: float32 (n, dim).

        Raises:
            InvalidRequest: a wrong dtype or shape, or a sum that is not finite; names the id.
        """
        name = self.config.name
        checked = checked_ids(name, ids)
        values = checked_rows(name, "gradients", gradients, len(checked), self.config.dim)
        firsts, groups = distinct(checked)
        if len(firsts) < len(checked):
            checked = checked[firsts]
            sums = np.zeros((len(firsts), self.config.dim), np.float32)
            batches.sum_groups(values, groups, sums)
            values = sums
        bad = kernels.first_not_finite(values)
        if bad >= 0:
            raise InvalidRequest(
                f"table {name}: gradients: id {checked[bad]} has {values[bad].tolist()}; "
                "legal is a finite mean square"
            )
        return Gradients(checked, values)

    def apply(self, gradients: Gradients, clock: int, event_time: int) -> None:
        """Update the rows of a prepared push, creating those that are missing.

        Args:
            gradients: what `prepare` of this table returned.
            clock: the version that the rows get, above 0.
            event_time: in milliseconds; raises the rows' last use.
        """
        optimizer = self.config.optimizer
        rows, created = self._rows.find_or_create(gradients.ids, clock)
        columns = self._rows.columns
        columns.accumulators[created] = optimizer.initial_accumulator
        columns.last_use[created] = event_time
        kernels.rowwise_adagrad(
            columns.vectors,
            columns.accumulators,
            rows,
            gradients.values,
            optimizer.learning_rate,
            optimizer.epsilon,
        )
        kernels.touch(columns.versions, columns.last_use, rows, clock, event_time)

    def push(
        self, ids: NDArray[np.generic], gradients: NDArray[np.generic], clock: int, event_time: int
    ) -> None:
        """`prepare` and `apply` in one."""
        self.apply(self.prepare(ids, gradients), clock, event_time)

    def remove(self, ids: NDArray[np.generic], clock: int) -> int:
        """Free the rows of `ids` and leave tombstones of version `clock`; how many there were.

        Raises:
            InvalidRequest: `ids` has another dtype or shape.
        """
        removed = self._rows.remove(checked_ids(self.config.name, ids))
        self.tombstones.add(removed, clock)
        return len(removed)

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`, all rows for clock 0; needs no lock."""
        return self._rows.newer(clock)

    def found(self, ids: U64) -> I64:
        """The distinct rows of those of `ids` (n,) that have one."""
        rows = self._rows.find(ids)
        return np.unique(rows[rows >= 0])

    def removed_since(self, clock: int) -> U64 | None:
        """The ids removed after `clock`; None where that is no longer known."""
        return None if clock < self.tombstones.trimmed else self.tombstones.since(clock)

    def copied(self, rows: I64, names: Sequence[str]) -> Arrays:
        """Copies of ids, the columns `names` and versions of `rows`; needs no lock.

        Versions are read last: a row that a push changes meanwhile shows it by its version.
        """
        columns = self._rows.columns
        order = dict.fromkeys(["ids", *names])
        order.pop("versions", None)
        return {name: getattr(columns, name)[rows] for name in [*order, "versions"]}

    @property
    def nbytes(self) -> int:
        """How many bytes its columns and index take."""
        columns = self._rows.columns
        return self._rows.index_bytes + sum(int(getattr(columns, n).nbytes) for n in self.column_names)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of all columns: what a checkpoint has to keep."""
        return tuple(Columns.__slots__)

    def restore(self, removed: U64, saved: Arrays) -> None:
        """Drop the rows of `removed`, without tombstones, then take over those that `copied` copied."""
        self._rows.remove(removed)
        ids = saved["ids"]
        rows, _ = self._rows.find_or_create(ids, 1)
        for name in self.column_names:
            getattr(self._rows.columns, name)[rows] = saved[name]

    def digest(self, packed: ReplicaRows) -> int:
        """The order-independent digest of all ids and vector bits as replicas hold them, in [0, 2**64)."""
        columns = self._rows.columns
        return digest_vectors(columns.ids, columns.vectors, self._rows.live(), packed)

    def check_integrity(self) -> None:
        """Check that index, columns and free rows agree; AssertionError if not."""
        self._rows.check_integrity()

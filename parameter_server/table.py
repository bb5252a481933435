"""One embedding table of a shard: rows that learn by row-wise Adagrad, and the tombstones of those removed.

Knows no network and no lock. `prepare` checks a push without changing anything, `apply` cannot fail, so
that a push over several tables happens wholly or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.errors import InvalidRequest
from parameter_server.kernels import batches
from parameter_server.kernels import rows as kernels
from parameter_server.store import RowStore, checked_ids, checked_rows, distinct
from parameter_server.tombstones import TombstoneLog
from schema.config import TableConfig
from schema.records import F32, U64


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

    def changed(self, clock: int) -> Columns:
        """A copy of the rows with a version above `clock`; of all rows for clock 0."""
        return self._rows.columns.taken(self._rows.newer(clock))

    def load(self, saved: Columns) -> None:
        """Fill this empty table with the rows that `changed(0)` returned."""
        rows, _ = self._rows.find_or_create(saved.ids, 1)
        for name in ("vectors", "versions", "accumulators", "last_use"):
            getattr(self._rows.columns, name)[rows] = getattr(saved, name)

    def digest(self) -> int:
        """The order-independent digest of all ids and vector bits, in [0, 2**64)."""
        return self._rows.digest()

    def check_integrity(self) -> None:
        """Check that index, columns and free rows agree; AssertionError if not."""
        self._rows.check_integrity()

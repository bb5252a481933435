"""The records of a table's rows: id, version, last use, and a half word more. Knows no vectors and no index.

A record is three words: the id, the version (0 marks a free row), last use and a half word more, which is
the state of a row that has but one value of it, or its count of uses.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parameter_server.kernels import rows as kernels
from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.rows import BLOCK, HALVES, LAST_USE, OTHER, VERSION
from parameter_server.memory import Column
from schema.records import I64, U64


class Records:
    """Columns that grow in place; all views are of the rows there are now, and change with `resize`.

    Args:
        rows: how many there are at first.
    """

    def __init__(self, rows: int) -> None:
        self._column = Column(rows, RECORD, np.uint64)
        self._summary = Column(-(-rows // BLOCK), 0, np.uint64)

    def __len__(self) -> int:
        return len(self._column.array)

    @property
    def words(self) -> U64:
        """All of them, uint64 (3 * rows,)."""
        flat: U64 = self._column.array.reshape(-1)
        return flat

    @property
    def halves(self) -> NDArray[np.uint32]:
        """The records as half words, uint32 (6 * rows,)."""
        return self.words.view(np.uint32)

    @property
    def summary(self) -> U64:
        """The highest version of each BLOCK rows."""
        return self._summary.array

    @property
    def ids(self) -> U64:
        """The id of each row, a strided view (rows,)."""
        return self._column.array[:, 0]

    @property
    def versions(self) -> U64:
        """The version of each row, a strided view (rows,); 0 marks a free one."""
        return self._column.array[:, VERSION]

    @property
    def last_use(self) -> NDArray[np.uint32]:
        """The event time in seconds of each row's last push, a strided view (rows,)."""
        return self.halves.reshape(-1, HALVES)[:, LAST_USE]

    @property
    def uses(self) -> NDArray[np.uint32]:
        """How many pushes each row has had, a strided view (rows,); in tables of several widths only."""
        return self.halves.reshape(-1, HALVES)[:, OTHER]

    def resize(self, rows: int) -> None:
        """Keep the first `rows` records, or add free ones."""
        # in this order: whoever scans without a lock finds a summary for all records that it sees
        self._summary.resize(-(-rows // BLOCK))
        self._column.resize(rows)

    def touch(self, rows: I64, clock: int, event_second: int) -> None:
        """Set the versions of `rows` to `clock`, and raise their last use to `event_second`."""
        kernels.touch(self.words, self.halves, self.summary, rows, clock, event_second)

    def restore(self, rows: I64, versions: U64, last_use: NDArray[np.uint32]) -> None:
        """Set versions and last use (n,) of `rows` (n,) as they once were."""
        self.versions[rows] = versions
        self.last_use[rows] = last_use
        np.maximum.at(self.summary, rows // BLOCK, versions)

    def free(self, rows: I64) -> None:
        """Reset the records of `rows`."""
        self._column.array[rows] = 0

    def copy(self, sources: I64, targets: I64) -> None:
        """Copy records onto free ones."""
        self._column.array[targets] = self._column.array[sources]
        np.maximum.at(self.summary, targets // BLOCK, self.versions[targets])

    def newer(self, clock: int, used: int) -> I64:
        """Those of the first `used` rows with a version above `clock`, ascending."""
        rows = np.empty(used, np.int64)  # memory that is not written costs nothing
        count = kernels.newer_rows(self.words[: used * RECORD], self.summary, clock, rows)
        return rows[:count].copy()

    def check_free(self, rows: I64) -> None:
        """Check that the records of `rows` are reset; AssertionError if not."""
        assert not self._column.array[rows].any(), "a free row is not reset"  # noqa: S101

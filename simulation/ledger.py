"""The account of what was truly served: for every feed, how much its user was really interested in it.

Kept apart from all that the recommender sees; written to a file that the demo judges by.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILE: Final = "truth.parquet"
CAPACITY: Final = 500_000
_RECENT_MS: Final = 10_000


class Served(NamedTuple):
    """One feed: when (Unix ms), to whom, by a frozen replica or not, and the mean interest in its items.

    Interest is the probability that the user clicks an item when looking at it.
    """

    time: int
    user: int
    frozen: bool
    interest: float


class Ledger:
    """The last `capacity` feeds."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._served: deque[Served] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._served)

    def add(self, served: Served) -> None:
        """Note a feed, later than all before."""
        self._served.append(served)

    def recent(self, now: int) -> dict[str, float | None]:
        """The mean interest served by "live" and by "frozen" replicas in the ten seconds before `now`."""
        last = list(takewhile(lambda served: served.time >= now - _RECENT_MS, reversed(self._served)))
        return {
            name: _mean([served.interest for served in last if served.frozen is frozen])
            for name, frozen in (("live", False), ("frozen", True))
        }

    def write(self, folder: Path) -> Path:
        """Write all to `folder`/FILE: columns time, user, frozen and interest, a row a feed."""
        folder.mkdir(parents=True, exist_ok=True)
        types = (pa.int64(), pa.int64(), pa.bool_(), pa.float64())
        columns = zip(*self._served, strict=True) if self._served else ((),) * len(types)
        arrays = [pa.array(list(c), t) for c, t in zip(columns, types, strict=True)]
        path = folder / FILE
        pq.write_table(pa.table(arrays, names=list(Served._fields)), path)
        return path


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None

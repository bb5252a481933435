"""How old an action is when the replica first serves with parameters that have learned from it.

Pure: every time is handed in, in Unix milliseconds.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
from prometheus_client import Histogram

from schema.records import I64

CAPACITY: Final = 100_000

_SECONDS: Final = Histogram(
    "headwater_freshness_seconds",
    "From what completed a sample to the replica's serving with parameters that learned from it.",
    buckets=(0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600),
)


@dataclass(frozen=True, slots=True)
class FreshnessSummary:
    """`count` observations and their percentiles in seconds, None where there are none."""

    count: int
    p50: float | None
    p99: float | None


class Freshness:
    """The last `capacity` observations of freshness. Safe to use from any thread."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._lock = threading.Lock()
        self._completed: I64 = np.zeros(capacity, np.int64)
        self._served: I64 = np.zeros(capacity, np.int64)
        self._seen = 0

    def observe(self, completed: I64, served: int) -> None:
        """Note that samples completed at `completed`, shape (n,), have been served from since `served`."""
        for seconds in np.maximum(served - completed, 0) / 1000.0:
            _SECONDS.observe(seconds)
        with self._lock:
            kept = completed[-len(self._completed) :]
            places = (self._seen + np.arange(len(kept))) % len(self._completed)
            self._completed[places], self._served[places] = kept, served
            self._seen += len(kept)

    def summary(self, since: int = 0) -> FreshnessSummary:
        """The percentiles over the samples that were completed at `since` or later."""
        with self._lock:
            known = min(self._seen, len(self._completed))
            completed, served = self._completed[:known].copy(), self._served[:known].copy()
        seconds = np.maximum(served - completed, 0)[completed >= since] / 1000.0
        if not len(seconds):
            return FreshnessSummary(0, None, None)
        p50, p99 = np.percentile(seconds, (50, 99))
        return FreshnessSummary(len(seconds), float(p50), float(p99))

"""What the comparison of live and frozen replicas comes to: true interest served, and recovery from a trend.

Pure: takes the simulator's account of what it served, gives figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_Z95: Final = 1.959964
_BEFORE_MS: Final = 20_000
_SMOOTH_MS: Final = 3_000
_STEP_MS: Final = 250
_LOSS_WITHIN_MS: Final = 15_000


@dataclass(frozen=True, slots=True)
class Truth:
    """n feeds in order of time: when (Unix ms), to whom, by a frozen replica, and the true interest; (n,)."""

    times: I64
    users: I64
    frozen: NDArray[np.bool_]
    interest: F64

    @classmethod
    def read(cls, file: Path) -> Truth:
        """The account that the simulator has written.

        Raises:
            OSError: it cannot be read.
        """
        table = pq.read_table(file)
        columns = (table[name].to_numpy() for name in ("time", "user", "frozen", "interest"))
        return cls(*columns)

    def within(self, start: int, end: int, *, frozen: bool) -> Truth:
        """The feeds of one arm with start <= time < end."""
        rows = (self.times >= start) & (self.times < end) & (self.frozen == frozen)
        return Truth(self.times[rows], self.users[rows], self.frozen[rows], self.interest[rows])

    def by_user(self) -> F64:
        """Each user's mean, one number a user."""
        _, index = np.unique(self.users, return_inverse=True)
        means: F64 = np.bincount(index, self.interest) / np.maximum(np.bincount(index), 1)
        return means


def served_interest(truth: Truth, since: int, until: int) -> dict[str, Any] | None:
    """Live less frozen over since <= time < until, with a 95 % interval by users.

    None without two users in each arm. Each user counts once, by the mean of the
    user's feeds: a difference of two means with Welch's variance.
    """
    live, frozen = (truth.within(since, until, frozen=arm).by_user() for arm in (False, True))
    if min(len(live), len(frozen)) < 2:  # noqa: PLR2004 - a variance needs two
        return None
    difference = float(live.mean() - frozen.mean())
    error = float(np.sqrt(live.var(ddof=1) / len(live) + frozen.var(ddof=1) / len(frozen)))
    return {
        "live": float(live.mean()),
        "frozen": float(frozen.mean()),
        "difference": difference,
        "low": difference - _Z95 * error,
        "high": difference + _Z95 * error,
        "users": {"live": len(live), "frozen": len(frozen)},
        "seconds": (until - since) / 1000,
    }


@dataclass(frozen=True, slots=True)
class Recovery:
    """Live interest before a trend and at its lowest after it, and the seconds to half-way back, if ever."""

    before: float
    lowest: float
    seconds: float | None


def recovery(truth: Truth, trend_at: int) -> Recovery | None:
    """How the live half came through a trend that set in at `trend_at` (Unix ms).

    Interest is a mean over three seconds; its loss is the fall from the twenty seconds before the trend to
    the lowest such mean within fifteen seconds after it. None where no feeds were served around it.
    """
    last = int(truth.times.max(initial=0)) + 1
    before = truth.within(trend_at - _BEFORE_MS, trend_at, frozen=False).interest
    after = truth.within(trend_at, last, frozen=False)
    ends, means = _running_means(after, trend_at, last)
    if not len(before) or not len(means):
        return None
    level = float(before.mean())
    early = means[ends <= trend_at + _LOSS_WITHIN_MS]
    at = int(early.argmin()) if len(early) else 0
    lowest = float(means[at])
    back = np.flatnonzero(means[at:] >= level - (level - lowest) / 2)
    seconds = float(ends[at + back[0]] - trend_at) / 1000 if len(back) else None
    return Recovery(level, lowest, 0.0 if lowest >= level else seconds)


def _running_means(feeds: Truth, start: int, end: int) -> tuple[I64, F64]:
    """The ends of all spans of _SMOOTH_MS from `start` on that hold feeds, and their means."""
    ends = np.arange(start + _SMOOTH_MS, end + 1, _STEP_MS)
    total = np.concatenate(([0.0], np.cumsum(feeds.interest)))
    first, last = (np.searchsorted(feeds.times, edge) for edge in (ends - _SMOOTH_MS, ends))
    held = last > first
    means: F64 = (total[last] - total[first])[held] / (last - first)[held]
    return ends[held], means

"""How long samples took from stage to stage: event, completed, joined, trained, applied here, served here.

Pure: every time is handed in, in Unix ms.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, Final

import numpy as np
from prometheus_client import Histogram

from runtime.logs import about
from schema.records import I64
from schema.stages import trace_name

_log = logging.getLogger(__name__)

CAPACITY: Final = 20_000
_TIMES: Final = ("event", "completed", "joined", "trained", "applied", "served")
SPANS: Final = {
    "completed": (0, 1),
    "joined": (1, 2),
    "trained": (2, 3),
    "applied": (3, 4),
    "served": (4, 5),
    "completed_to_served": (1, 5),
    "event_to_served": (0, 5),
}
"""Each span of a sample's way by its name: the two of its six times that it lies between."""

_TRACES: Final = 256
_NONE: Final = np.empty((0, len(_TIMES)), np.int64)
"""No samples: of each five times, and its trace."""

_SECONDS: Final = Histogram(
    "headwater_freshness_stage_seconds",
    "Time of a sample's way, by span: completed (since its event), joined, trained, applied, served.",
    ["stage"],
    buckets=(0.01, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 20, 60, 300, 600, 1800),
)


class Stages:
    """The last `capacity` samples that have been served. Safe to use from any thread.

    As many may wait for a feed: of those that a replica without visitors has had, the newest.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._lock = threading.Lock()
        self._capacity = capacity
        self._pending = _NONE
        self._done: deque[I64] = deque(maxlen=capacity)
        self._traced: deque[tuple[int, I64]] = deque(maxlen=_TRACES)

    def applied(self, traced: I64, now: int) -> None:
        """Note samples, int64 (n, 5) as `schema.stages.unpack` gives them, that are applied at `now`."""
        if not len(traced):
            return
        times, traces = traced[:, :-1], traced[:, -1:]
        with self._lock:
            rows = np.column_stack((times, np.full(len(traced), now), traces))
            self._pending = np.concatenate((self._pending, rows))[-self._capacity :]

    def served(self, now: int) -> None:
        """Note a feed at `now`: the first since they were applied serves all samples that wait."""
        if not len(self._pending):
            return
        with self._lock:
            waiting, self._pending = self._pending, _NONE
        times = np.column_stack((waiting[:, :-1], np.full(len(waiting), now)))
        self._done.extend(times)
        for row in np.flatnonzero(waiting[:, -1]).tolist():
            self._note(int(waiting[row, -1]), times[row])
        for name, (start, end) in SPANS.items():
            observe = _SECONDS.labels(name).observe
            for seconds in (np.maximum(times[:, end] - times[:, start], 0) / 1000).tolist():
                observe(seconds)

    def _note(self, trace: int, times: I64) -> None:
        self._traced.append((trace, times))
        with about(trace=trace_name(trace)):
            _log.debug("a feed is served with a traced sample of %d", times[0])

    def traces(self) -> list[dict[str, Any]]:
        """The ways of the last traced samples that have been served: times in Unix ms by stage."""
        found = list(self._traced)
        return [
            {"trace": trace_name(trace)} | dict(zip(_TIMES, row.tolist(), strict=True))
            for trace, row in found
        ]

    def summary(self) -> dict[str, Any]:
        """By span, the percentiles in seconds over the samples served; their number as "count"."""
        rows = list(self._done)
        found: dict[str, Any] = {"count": len(rows)}
        if rows:
            times = np.array(rows)
            for name, (start, end) in SPANS.items():
                seconds = np.maximum(times[:, end] - times[:, start], 0) / 1000
                p50, p99 = np.percentile(seconds, (50, 99))
                found[name] = {"p50": float(p50), "p99": float(p99)}
        return found

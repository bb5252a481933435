"""The ways of traced samples as far as the shards: which of a step's are told of, and when they arrived.

Pure: every time is handed in, in Unix ms.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import numpy as np
from prometheus_client import Histogram

from runtime.logs import about
from schema.stages import Traced, trace_name
from trainer.rows import Rows

_log = logging.getLogger(__name__)

T = TypeVar("T")

_KEPT: Final = 256
_SECONDS: Final = Histogram(
    "headwater_freshness_published_seconds",
    "From a step's training to every shard's having it, for its traced samples.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20, 60, 300),
)


class Ways:
    """Picks the samples of a step that are told of: some evenly spaced, and all those of traced requests.

    Args:
        a_step: how many are evenly spaced.
    """

    def __init__(self, a_step: int) -> None:
        self._a_step = a_step
        self._recent: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def picked(self, rows: Rows, trained: int) -> list[Traced]:
        """The samples of a step trained at `trained`, for the shards to pass on."""
        traces = rows.traces()
        chosen = spread(list(range(len(traces))), self._a_step)
        chosen += sorted(set(np.flatnonzero(traces).tolist()) - set(chosen))
        return [
            Traced(*moments, trained, trace)
            for moments, trace in zip(rows.moments(chosen), traces[chosen].tolist(), strict=True)
        ]

    def published(self, picked: Sequence[Traced], now: int) -> None:
        """Note that the shards have the step of `picked` since `now`."""
        for sample in picked:
            _SECONDS.observe(max(0, now - sample.trained) / 1000)
            if sample.trace:
                way = sample._asdict() | {"trace": trace_name(sample.trace), "published": now}
                self._recent.append(way)
                with about(trace=way["trace"]):
                    _log.debug("the shards have a traced sample of step time %d", sample.trained)

    def recent(self) -> list[dict[str, Any]]:
        """The ways of the last traced samples, the oldest first: Unix ms by stage. From any thread."""
        return list(self._recent)


def spread(values: list[T], most: int) -> list[T]:
    """At most `most` of `values`, evenly spaced, first and last included where two or more are wanted."""
    if len(values) <= most:
        return values
    return [values[round(i)] for i in np.linspace(0, len(values) - 1, most)]

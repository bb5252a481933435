"""Asks the first stage for a user's candidates. Knows neither how it is kept up nor what else feeds show."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from prometheus_client import Histogram

from models.retrieval.beam import retrieve
from schema.config import Config, RetrievalConfig
from schema.ids import feature_id
from schema.records import F32
from serving.parameters import Parameters
from serving.structure import Served

_SECONDS: Final = Histogram(
    "headwater_retrieval_seconds",
    "Time to retrieve and rerank the candidates of a feed.",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
)
_KEPT: Final = 2000


class Retriever:
    """Retrieves with what is served now. Safe to use from any thread.

    Args:
        config: the whole configuration.
        retrieval: its section.
        parameters: what is served.
    """

    def __init__(self, config: Config, retrieval: RetrievalConfig, parameters: Parameters) -> None:
        self._config = retrieval
        self._parameters = parameters
        numbers = {s.name: s.slot for s in config.features.slots}
        own = (s.ids_of or s.name for s in config.features.slots if s.source == "user.id")
        self._own = numbers[next(own)] if retrieval.user_id else None
        self._seconds: deque[float] = deque(maxlen=_KEPT)

    def find(self, user_id: int, histories: Mapping[str, Sequence[int]], count: int) -> list[int]:
        """At most `count` items, the best first; none while there is no structure to look in."""
        start, config = time.perf_counter(), self._config
        served, own = self._served(user_id)
        if served is None or not len(served.learned.view.items):
            return []
        user = served.user(histories[config.history], own)
        found = retrieve(
            served.learned.beam,
            served.postings,
            user,
            beam=config.beam,
            limit=config.rerank,
            top=count,
        )
        items: list[int] = served.learned.view.items[found.rows[0, : found.counts[0]]].tolist()
        took = time.perf_counter() - start
        _SECONDS.observe(took)
        self._seconds.append(took)
        return items

    def report(self) -> dict[str, Any]:
        """What is served, and how long the last feeds' retrieval took."""
        served, seconds = self._parameters.retrieval, list(self._seconds)
        view = None if served is None else served.learned.view
        p50, p99 = np.percentile(seconds, (50, 99)).tolist() if seconds else (None, None)
        return {
            "items": 0 if view is None else len(view.items),
            "epoch": 0 if view is None else view.epoch,
            "version": 0 if view is None else view.version,
            "seconds": {"p50": p50, "p99": p99},
        }

    def _served(self, user_id: int) -> tuple[Served | None, F32 | None]:
        """What is served, and the user's own vector of the same round, where it is configured."""
        if self._own is None:
            return self._parameters.retrieval, None
        table = self._config.table
        reading = self._parameters.read({table: np.array([feature_id(self._own, user_id)], np.uint64)})
        own: F32 = reading.embeddings[table].numpy()[0, :-1]
        return reading.retrieval, own

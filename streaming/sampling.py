"""Which rows without a positive label are kept, and with what probability. Pure.

pi(x) = clip(rate * s(x) / mean s, floor, 1) from the served scores s, or a constant. A model that trains on
logit - log pi(x), positives too, learns the odds of all rows.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Final

from schema.config import SamplingConfig
from schema.records import FeatureLog

_MEMORY: Final = 1000
"""Over about how many requests the running mean of scores is taken."""

_SPAN: Final = float(1 << 32)


class Sampler:
    """Decides on the rows of one partition. The same row is decided alike however often it is asked for.

    Args:
        config: mode, rate and floor.
        tasks: the tasks in order, which are also the columns of the scores.
        mean: the running mean to go on with, None if there is none.
    """

    def __init__(self, config: SamplingConfig, tasks: tuple[str, ...], mean: float | None = None) -> None:
        self._mode = config.mode
        self._rate = config.rate
        self._floor = config.floor
        self._column = 0 if config.score_task is None else tasks.index(config.score_task)
        self.mean = mean
        self._seen = 0 if mean is None else _MEMORY

    @property
    def active(self) -> bool:
        """Whether any row may be dropped."""
        return self._mode == "score" or (self._mode == "uniform" and self._rate < 1.0)

    def plan(self, log: FeatureLog) -> float:
        """The mean that counts for `log`, the next of its partition; it is part of the mean itself."""
        if self._mode != "score":
            return 0.0
        scores = self._scores(log)
        if scores:
            average = sum(scores) / len(scores)
            self._seen = min(self._seen + 1, _MEMORY)
            self.mean = average if self.mean is None else self.mean + (average - self.mean) / self._seen
        return self.mean or 0.0

    def probabilities(self, log: FeatureLog, mean: float) -> list[float]:
        """The keep-probability pi of each impression; 1 where nothing was scored."""
        if self._mode == "uniform":
            return [self._rate] * len(log)
        scores = self._scores(log) if self._mode == "score" and mean > 0 else []
        if not scores:
            return [1.0] * len(log)
        scale, floor = self._rate / mean, self._floor
        # a score that is no number keeps its row
        return [min(1.0, max(floor, scale * s)) if s == s else 1.0 for s in scores]  # noqa: PLR0124

    def _scores(self, log: FeatureLog) -> tuple[float, ...]:
        rows = len(log)
        width = len(log.scores) // (4 * rows)
        if width <= self._column:
            return ()
        return struct.unpack(f"<{rows * width}f", log.scores)[self._column :: width]


def draws(partition: int, offset: int, index: int, rows: int) -> list[float]:
    """A number in [0, 1) for each impression, a function of where its feature log lies."""
    place = struct.pack("<3q", partition, offset, index)
    bits = hashlib.shake_128(place).digest(4 * rows)
    return [value / _SPAN for value in struct.unpack(f"<{rows}I", bits)]


def log_keep(probabilities: list[float]) -> bytes:
    """The column of log pi, <f4."""
    return struct.pack(f"<{len(probabilities)}f", *map(math.log, probabilities))

"""Which rows without a positive label are kept, and with what probability. Pure.

pi(x) = clip(rate * s(x) / mean s, floor, 1) from the served scores s, or a constant. A model that trains on
logit - log pi(x), positives too, learns the odds of all rows. Draws and the mean are functions of the feature
logs and where they lie, so that whoever reads them again decides alike.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from schema.config import SamplingConfig
from streaming.heads import Head

STRETCH: Final = 256
"""Over how many offsets of the feature logs a mean is taken."""

_SPAN: Final = float(1 << 32)


class Scored(NamedTuple):
    """The scores of one message: the sum of its requests' averages, and how many there are."""

    offset: int
    total: float
    requests: int


class RunningMean:
    """The mean score that counts for a feature log: that of the stretch of offsets before its own.

    Where none was scored there: that of its own stretch, up to its message. Nothing else has to be known for
    it, so it is found again exactly by whoever reads from the stretch before.
    """

    def __init__(self) -> None:
        self._stretches: dict[int, dict[int, Scored]] = {}
        self._whole: dict[int, Scored] = {}
        self._newest = 0

    def note(self, scored: Scored) -> None:
        """A message was read; told again, it changes nothing."""
        stretch = scored.offset // STRETCH
        self._stretches.setdefault(stretch, {})[scored.offset] = scored
        self._whole.pop(stretch, None)

    def at(self, offset: int) -> float:
        """The mean for the message at `offset`, 0.0 if nothing was scored yet.

        To be asked in the order of offsets, once all messages before it were noted.
        """
        stretch = offset // STRETCH
        if stretch > self._newest:
            self._forget(stretch - 1)
            self._newest = stretch
        before = self._whole.get(stretch - 1) or self._sum_up(stretch - 1)
        if not before.requests:
            own = self._stretches.get(stretch, {}).values()
            before = _sum(stretch, [s for s in own if s.offset <= offset])
        return before.total / before.requests if before.requests else 0.0

    def _forget(self, below: int) -> None:
        for kept in (self._stretches, self._whole):
            for stretch in [s for s in kept if s < below]:
                del kept[stretch]

    def _sum_up(self, stretch: int) -> Scored:
        whole = self._whole[stretch] = _sum(stretch, self._stretches.get(stretch, {}).values())
        return whole


def _sum(stretch: int, some: Iterable[Scored]) -> Scored:
    some = list(some)
    return Scored(stretch, math.fsum(s.total for s in some), sum(s.requests for s in some))


class Sampler:
    """Decides on the rows of one partition.

    Args:
        config: mode, rate and floor.
        tasks: the tasks in order, which are also the columns of the scores.
    """

    def __init__(self, config: SamplingConfig, tasks: tuple[str, ...]) -> None:
        self._mode = config.mode
        self._rate = config.rate
        self._floor = config.floor
        self._column = 0 if config.score_task is None else tasks.index(config.score_task)
        self._mean = RunningMean()

    @property
    def active(self) -> bool:
        """Whether any row may be dropped."""
        return self._mode == "score" or (self._mode == "uniform" and self._rate < 1.0)

    @property
    def by_score(self) -> bool:
        """Whether the mean matters."""
        return self._mode == "score"

    def score(self, offset: int, heads: Iterable[Head]) -> Scored | None:
        """What the mean learns of the message at `offset` with these feature logs."""
        averages = [sum(s) / len(s) for s in map(self._scores, heads) if s]
        averages = [a for a in averages if math.isfinite(a)]
        return Scored(offset, math.fsum(averages), len(averages)) if averages else None

    def note(self, scored: Scored | None) -> None:
        """As `RunningMean.note`."""
        if scored is not None:
            self._mean.note(scored)

    def mean(self, offset: int) -> float:
        """As `RunningMean.at`."""
        return self._mean.at(offset) if self._mode == "score" else 0.0

    def probabilities(self, head: Head, mean: float) -> list[float]:
        """The keep-probability pi of each impression; 1 where nothing was scored."""
        if self._mode == "uniform":
            return [self._rate] * len(head)
        scores = self._scores(head) if self._mode == "score" and mean > 0 else ()
        if not scores:
            return [1.0] * len(head)
        scale, floor = self._rate / mean, self._floor
        # a score that is no number keeps its row
        return [min(1.0, max(floor, scale * s)) if s == s else 1.0 for s in scores]  # noqa: PLR0124

    def _scores(self, head: Head) -> Sequence[float]:
        rows = len(head)
        width = len(head.scores) // (4 * rows)
        if width <= self._column:
            return ()
        return struct.unpack(f"<{rows * width}f", head.scores)[self._column :: width]


def draws(partition: int, offset: int, index: int, rows: int) -> list[float]:
    """A number in [0, 1) for each impression, a function of where its feature log lies."""
    place = struct.pack("<3q", partition, offset, index)
    bits = hashlib.shake_128(place).digest(4 * rows)
    return [value / _SPAN for value in struct.unpack(f"<{rows}I", bits)]


def log_keep(probabilities: list[float]) -> bytes:
    """The column of log pi, <f4."""
    return struct.pack(f"<{len(probabilities)}f", *map(math.log, probabilities))

"""Prequential evaluation: metrics overall, by window of event time, by surface, and over one period.

Pure. State and summaries of a window that has not changed are kept, so that many old windows cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.metrics import TaskMetrics
from schema.config import PeriodConfig
from schema.records import F32, I64
from trainer.by_user import ByUser

WINDOWS_KEPT: Final = 400
SURFACES_KEPT: Final = 64


class SavedMetrics(msgspec.Struct, frozen=True, array_like=True):
    """The counts of one span: non-zero bins of positives and negatives at <i8 indices, the rest <f8 (T,)."""

    rows: int
    at: bytes
    counts: bytes
    predicted: bytes
    log_loss: bytes


class SavedEvaluation(msgspec.Struct, frozen=True, array_like=True):
    """An evaluation as a checkpoint keeps it; windows by their start, in milliseconds."""

    overall: SavedMetrics
    period: SavedMetrics | None
    windows: dict[int, SavedMetrics]
    surfaces: dict[int, SavedMetrics] = {}


class _Rows(NamedTuple):
    """n scored rows: three arrays (n, T), and what each counts for (n,), None for 1."""

    predictions: F32
    labels: F32
    mask: F32
    weights: F32 | None

    def of(self, chosen: NDArray[np.bool_]) -> _Rows:
        """Those where `chosen` (n,) is set."""
        if chosen.all():
            return self
        weights = None if self.weights is None else self.weights[chosen]
        return _Rows(self.predictions[chosen], self.labels[chosen], self.mask[chosen], weights)


@dataclass(frozen=True, slots=True)
class Quality:
    """Summaries: of all rows, the newest window if there are any, by surface; the grouped AUC by task."""

    overall: Mapping[str, Any]
    window: Mapping[str, Any] | None
    surfaces: Mapping[str, Mapping[str, Any]]
    grouped_auc: Mapping[str, float]


@dataclass(slots=True)
class Span:
    """The metrics of the rows of one span of time."""

    metrics: TaskMetrics
    rows: int = 0
    _saved: SavedMetrics | None = field(default=None, repr=False)
    _summary: dict[str, Any] | None = field(default=None, repr=False)

    def update(self, predictions: F32, labels: F32, mask: F32, weights: F32 | None = None) -> None:
        """Count n rows: three arrays (n, T) and weights (n,), as TaskMetrics takes them."""
        self.metrics.update(predictions, labels, mask, weights)
        self.rows += len(predictions)
        self._saved = self._summary = None

    def summary(self, tasks: Sequence[str]) -> dict[str, Any]:
        """The rows, and each metric by task."""
        if self._summary is None:
            m = self.metrics
            values = {
                "auc": m.auc(),
                "normalised_entropy": m.normalised_entropy(),
                "calibration": m.calibration(),
                "log_loss": m.mean_log_loss(),
            }
            by_task = {name: dict(zip(tasks, v.tolist(), strict=True)) for name, v in values.items()}
            self._summary = {"rows": self.rows, **by_task}
        return self._summary

    def state(self) -> SavedMetrics:
        """What `loaded` needs."""
        if self._saved is None:
            m = self.metrics
            bins = np.stack([m.positives, m.negatives]).ravel()
            at = np.flatnonzero(bins)
            self._saved = SavedMetrics(
                self.rows, at.tobytes(), bins[at].tobytes(), m.predicted.tobytes(), m.log_loss.tobytes()
            )
        return self._saved

    @classmethod
    def loaded(cls, tasks: int, saved: SavedMetrics) -> Span:
        """A span of `tasks` tasks with the state `saved`."""
        metrics = TaskMetrics(tasks)
        bins = np.zeros(metrics.positives.size * 2)
        bins[np.frombuffer(saved.at, np.int64)] = np.frombuffer(saved.counts)
        metrics.positives, metrics.negatives = bins.reshape(2, *metrics.positives.shape)
        metrics.predicted = np.frombuffer(saved.predicted).copy()
        metrics.log_loss = np.frombuffer(saved.log_loss).copy()
        return cls(metrics, saved.rows)


class Evaluation:
    """Metrics of a stream of scored rows.

    Args:
        tasks: their names.
        window_seconds: the length of a window; 0 keeps none. Windows are aligned to midnight in the zone
            `timezone_hours` east of UTC. The newest WINDOWS_KEPT are kept.
        timezone_hours: see above.
        period: a span to keep apart, None for none.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        window_seconds: float,
        timezone_hours: float,
        period: PeriodConfig | None,
    ) -> None:
        self._tasks = tuple(tasks)
        self._window = int(window_seconds * 1000)
        self._zone = int(timezone_hours * 3_600_000)
        self._bounds = None if period is None else (_millis(period.start), _millis(period.end))
        self.overall = self._span()
        self.period = None if period is None else self._span()
        self.windows: dict[int, Span] = {}
        self.surfaces: dict[int, Span] = {}
        self.by_user = ByUser(self._tasks)

    def _span(self) -> Span:
        return Span(TaskMetrics(len(self._tasks)))

    def update(
        self, predictions: F32, labels: F32, mask: F32, event_times: I64, weights: F32 | None = None
    ) -> None:
        """Count n rows: arrays (n, T), event times (n,) in milliseconds, and what each counts for (n,)."""
        rows = _Rows(predictions, labels, mask, weights)
        self.overall.update(*rows)
        if self.period is not None and self._bounds is not None:
            inside = (event_times >= self._bounds[0]) & (event_times < self._bounds[1])
            if inside.any():
                self.period.update(*rows.of(inside))
        if self._window:
            self._update_windows(rows, event_times)

    def update_surfaces(
        self, predictions: F32, labels: F32, mask: F32, surfaces: I64, weights: F32 | None = None
    ) -> None:
        """Count n rows by the surface that they were shown on (n,); no more than SURFACES_KEPT are kept."""
        for surface in np.unique(surfaces).tolist():
            if surface in self.surfaces or len(self.surfaces) < SURFACES_KEPT:
                of = surfaces == surface
                span = self.surfaces.setdefault(surface, self._span())
                span.update(*_Rows(predictions, labels, mask, weights).of(of))

    def _update_windows(self, rows: _Rows, event_times: I64) -> None:
        starts = (event_times + self._zone) // self._window * self._window - self._zone
        for start in np.unique(starts).tolist():
            of = starts == start
            window = self.windows.setdefault(start, self._span())
            window.update(*rows.of(of))
        while len(self.windows) > WINDOWS_KEPT:
            del self.windows[min(self.windows)]

    def quality(self) -> Quality:
        """What there is to see now."""
        newest = self.windows[max(self.windows)].summary(self._tasks) if self.windows else None
        surfaces = {str(number): span.summary(self._tasks) for number, span in self.surfaces.items()}
        return Quality(self.overall.summary(self._tasks), newest, surfaces, self.by_user.report())

    def report(self) -> dict[str, Any]:
        """Summaries: overall, period (None without one), windows by their start, oldest first, surfaces."""
        return {
            "overall": self.overall.summary(self._tasks),
            "period": None if self.period is None else self.period.summary(self._tasks),
            "windows": [
                {"start": start, **window.summary(self._tasks)}
                for start, window in sorted(self.windows.items())
            ],
            "surfaces": {
                str(surface): span.summary(self._tasks) for surface, span in sorted(self.surfaces.items())
            },
        }

    def state(self) -> SavedEvaluation:
        """All counts, for a checkpoint."""
        windows = {start: window.state() for start, window in self.windows.items()}
        period = None if self.period is None else self.period.state()
        surfaces = {surface: span.state() for surface, span in self.surfaces.items()}
        return SavedEvaluation(self.overall.state(), period, windows, surfaces)

    def restore(self, saved: SavedEvaluation) -> None:
        """Take the place of whatever was counted. A period that the state lacks starts empty."""
        tasks = len(self._tasks)
        self.overall = Span.loaded(tasks, saved.overall)
        if self.period is not None and saved.period is not None:
            self.period = Span.loaded(tasks, saved.period)
        self.windows = {start: Span.loaded(tasks, window) for start, window in saved.windows.items()}
        self.surfaces = {surface: Span.loaded(tasks, span) for surface, span in saved.surfaces.items()}


def _millis(at: datetime) -> int:
    return round(at.timestamp() * 1000)

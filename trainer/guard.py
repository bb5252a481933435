"""The guard: lets the parameters be published only while the newest windows are predicted as they should be.

A window is a number of consecutive rows. One whose calibration, or normalised entropy, is out of bounds for
some task holds publishing back, and says why; only `resume` lets go again. A drift of the log loss (ADWIN:
Bifet and Gavaldà, SDM 2007) is told and counted, and holds nothing back. Pure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from models.metrics import TaskMetrics
from schema.config import GuardConfig
from schema.records import F32

_log = logging.getLogger(__name__)

_EPSILON: Final = 1e-7


class SavedGuard(msgspec.Struct, frozen=True, array_like=True):
    """A guard as a checkpoint keeps it: why it holds. Its window and its drift detectors start anew."""

    breach: str | None
    alarms: dict[str, int]


class Guard:
    """Watches the scored rows of `tasks`.

    Args:
        config: the bounds.
        tasks: their names.
    """

    def __init__(self, config: GuardConfig, tasks: Sequence[str]) -> None:
        # half as long to import as torch, and a trainer without a guard comes back that much sooner
        from river.drift import ADWIN  # noqa: PLC0415

        self._config = config
        self._tasks = tuple(tasks)
        self._window = TaskMetrics(len(tasks))
        self._rows = 0
        self._drift: list[Any] = [ADWIN(delta=config.drift_delta) for _ in tasks]  # type: ignore[no-untyped-call]
        self.breach: str | None = None
        """Why nothing is published, None while all is well."""
        self.alarms: dict[str, int] = dict.fromkeys(tasks, 0)
        """How often the log loss of each task has drifted upwards."""

    def update(self, predictions: F32, labels: F32, mask: F32, weights: F32 | None = None) -> None:
        """Count n scored rows: three arrays (n, T), and what each row counts for (n,), 1 if None."""
        self._watch_drift(predictions, labels, mask)
        self._window.update(predictions, labels, mask, weights)
        self._rows += len(predictions)
        if self._rows >= self._config.window_rows:
            self._judge()

    def resume(self) -> str | None:
        """Publish again; why it had stopped. The window under way starts anew."""
        reason, self.breach = self.breach, None
        self._start_window()
        if reason is not None:
            _log.warning("the guard was told to resume; it had held since: %s", reason)
        return reason

    def state(self) -> SavedGuard:
        """What a checkpoint keeps."""
        return SavedGuard(self.breach, dict(self.alarms))

    def restore(self, saved: SavedGuard) -> None:
        """Hold, or not, as `saved` did."""
        self.breach = saved.breach
        self.alarms = self.alarms | saved.alarms

    def _judge(self) -> None:
        """The verdict on a whole window; the first breach stays until `resume`."""
        found = self._problem()
        self._start_window()
        if found is not None and self.breach is None:
            self.breach = found
            _log.error("publishing stops: %s", found)

    def _problem(self) -> str | None:
        config, window = self._config, self._window
        positives = window.positives.sum(axis=1)
        checks = (
            ("calibration", window.calibration(), config.calibration_min, config.calibration_max),
            ("normalised entropy", window.normalised_entropy(), 0.0, config.entropy_max),
        )
        for name, values, low, high in checks:
            for task, value, had in zip(self._tasks, values.tolist(), positives.tolist(), strict=True):
                if had >= config.least_positives and not low <= value <= high:
                    return (
                        f"{name} of {task} is {value:.3f} over the last {self._rows} rows; "
                        f"legal is {low:g} to {high:g}"
                    )
        return None

    def _start_window(self) -> None:
        self._window = TaskMetrics(len(self._tasks))
        self._rows = 0

    def _watch_drift(self, predictions: F32, labels: F32, mask: F32) -> None:
        p = np.clip(predictions.astype(np.float64), _EPSILON, 1 - _EPSILON)
        losses = -(labels * np.log(p) + (1 - labels) * np.log1p(-p))
        counted = (mask > 0).sum(axis=0)
        means = (losses * (mask > 0)).sum(axis=0) / np.maximum(counted, 1)
        for k, (task, detector) in enumerate(zip(self._tasks, self._drift, strict=True)):
            if not counted[k]:
                continue
            before = detector.estimation
            detector.update(float(means[k]))
            if detector.drift_detected and detector.estimation > before:
                self.alarms[task] += 1
                _log.warning(
                    "the log loss of %s has drifted from %.4f to %.4f", task, before, detector.estimation
                )

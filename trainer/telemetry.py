"""The trainer's Prometheus metrics. Knows no state but theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

from trainer.evaluation import Quality

ROWS: Final = Counter("headwater_trainer_rows", "Rows trained.")
STEPS: Final = Counter("headwater_trainer_steps", "Steps trained.")
DUPLICATES: Final = Counter("headwater_trainer_duplicates", "Rows dropped because they had been trained.")
DEAD_LETTERS: Final = Counter("headwater_trainer_dead_letters", "Messages and blocks that were unusable.")
REFUSED: Final = Counter("headwater_trainer_refused_rows", "Rows of steps whose gradients were not finite.")
POINTS: Final = Counter("headwater_trainer_recovery_points", "Recovery points made.")
POINTS_FAILED: Final = Counter("headwater_trainer_recovery_points_failed", "Recovery points given up.")
RETURNS: Final = Counter("headwater_trainer_returns", "Returns to a recovery point while the trainer ran.")
STEP_SECONDS: Final = Histogram(
    "headwater_trainer_step_seconds",
    "Time of a step by phase: exchange is a push and the next step's pull, pull and push are one alone.",
    ["phase"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
)
HELD: Final = Gauge("headwater_trainer_guard_holds", "1 while the guard lets nothing be published.")
POINT_SECONDS: Final = Histogram(
    "headwater_trainer_recovery_point_seconds",
    "Time of a recovery point by phase: shard (each one's checkpoint), cut (training waits), write.",
    ["phase"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120),
)
_LAG: Final = Gauge("headwater_trainer_lag_messages", "Messages of the samples topic not trained yet.")
_METRICS: Final = ("auc", "normalised_entropy", "calibration")
_QUALITY: Final = {
    name: Gauge(f"headwater_trainer_{name}", f"Prequential {name} over all rows.", ["task"])
    for name in _METRICS
}
_OF_SURFACE: Final = {
    name: Gauge(f"headwater_trainer_surface_{name}", f"As {name}, of one surface.", ["task", "surface"])
    for name in _METRICS
}
_OF_WINDOW: Final = {
    name: Gauge(f"headwater_trainer_window_{name}", f"As {name}, in the newest window.", ["task"])
    for name in _METRICS
}
_GROUPED: Final = Gauge(
    "headwater_trainer_user_grouped_auc", "AUC within users, weighted by rows, over recent rows.", ["task"]
)


def observe_lag(lag: Callable[[], int | None]) -> None:
    """Ask `lag` whenever metrics are read; None shows as not a number."""

    def read() -> float:
        found = lag()
        return float("nan") if found is None else found

    _LAG.set_function(read)


def observe_quality(_step: int, quality: Quality) -> None:
    """Show the metrics of an evaluation: by task, over all rows, in the newest window, and by surface."""
    _show(_QUALITY, quality.overall)
    if quality.window is not None:
        _show(_OF_WINDOW, quality.window)
    for surface, summary in quality.surfaces.items():
        _show(_OF_SURFACE, summary, surface)
    for task, value in quality.grouped_auc.items():
        _GROUPED.labels(task).set(value)


def _show(gauges: Mapping[str, Gauge], summary: Mapping[str, Any], *labels: str) -> None:
    for name, gauge in gauges.items():
        for task, value in summary[name].items():
            gauge.labels(task, *labels).set(value)

"""The trainer's Prometheus metrics. Knows no state but theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram

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
    "Time of a step by phase.",
    ["phase"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 30),
)
_LAG: Final = Gauge("headwater_trainer_lag_messages", "Messages of the samples topic not trained yet.")
_QUALITY: Final = {
    name: Gauge(f"headwater_trainer_{name}", f"Prequential {name} over all rows.", ["task"])
    for name in ("auc", "normalised_entropy", "calibration")
}


def observe_lag(lag: Callable[[], int | None]) -> None:
    """Ask `lag` whenever metrics are read; None shows as not a number."""

    def read() -> float:
        found = lag()
        return float("nan") if found is None else found

    _LAG.set_function(read)


def observe_quality(overall: Mapping[str, Any]) -> None:
    """Show the metrics of an evaluation's summary, by task."""
    for name, gauge in _QUALITY.items():
        for task, value in overall[name].items():
            gauge.labels(task).set(value)

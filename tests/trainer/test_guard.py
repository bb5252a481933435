"""The guard holds publishing back on a window out of bounds, says why, and lets go only when told."""

from __future__ import annotations

import numpy as np
import pytest

from schema.config import GuardConfig
from trainer.guard import Guard

TASKS = ("click", "like")
CONFIG = GuardConfig(window_rows=2000, least_positives=50)


def rows(
    rng: np.random.Generator, factor: float = 1.0, rate: float = 0.3, count: int = 500
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions that are `factor` times the rates of the labels."""
    truth = np.clip(rng.normal(rate, 0.1, (count, 2)), 0.02, 0.6)
    labels = (rng.random((count, 2)) < truth).astype("f4")
    return (truth * factor).clip(0, 1).astype("f4"), labels, np.ones((count, 2), "f4")


def fed(guard: Guard, *, batches: int, factor: float = 1.0, rate: float = 0.3, seed: int = 0) -> Guard:
    rng = np.random.default_rng(seed)
    for _ in range(batches):
        guard.update(*rows(rng, factor, rate))
    return guard


def test_good_predictions_are_published():
    guard = fed(Guard(CONFIG, TASKS), batches=20)
    assert guard.breach is None
    assert guard.alarms == {"click": 0, "like": 0}


@pytest.mark.parametrize(
    ("factor", "text"),
    [(2.6, r"calibration of click is 2\.\d+ over"), (0.3, r"calibration of click is 0\.2\d+ over")],
)
def test_a_window_out_of_calibration_holds_and_says_why(factor, text):
    guard = Guard(CONFIG, TASKS)
    fed(guard, batches=3, factor=factor)
    assert guard.breach is None, "the window is not whole yet"
    fed(guard, batches=1, factor=factor)
    with pytest.raises(AssertionError, match=text):
        assert guard.breach is None, guard.breach


def test_predictions_worse_than_the_mean_hold_too():
    rng = np.random.default_rng(0)
    guard = Guard(CONFIG, TASKS)
    for _ in range(4):
        p, labels, mask = rows(rng)
        guard.update(np.where(rng.random(p.shape) < 0.3, 0.98, 0.02).astype("f4"), labels, mask)
    assert guard.breach is not None
    assert "entropy" in guard.breach


def test_a_good_window_does_not_let_go_but_a_command_does():
    guard = fed(Guard(CONFIG, TASKS), batches=4, factor=2.6)
    reason = guard.breach
    fed(guard, batches=8)
    assert guard.breach == reason is not None
    assert guard.resume() == reason
    assert guard.resume() is None
    assert fed(guard, batches=8).breach is None


def test_few_positives_are_no_verdict():
    guard = Guard(GuardConfig(window_rows=1000, least_positives=5000), TASKS)
    assert fed(guard, batches=4, factor=2.6).breach is None


def test_a_rise_of_the_loss_is_told():
    guard = fed(Guard(CONFIG, TASKS), batches=100, rate=0.1)
    rng = np.random.default_rng(1)
    for _ in range(100):
        p, labels, mask = rows(rng, rate=0.1)
        guard.update(p, 1 - labels, mask)
    assert min(guard.alarms.values()) >= 1


def test_a_restart_goes_on_holding():
    guard = fed(Guard(CONFIG, TASKS), batches=4, factor=2.6)
    other = Guard(CONFIG, TASKS)
    other.restore(guard.state())
    assert other.breach == guard.breach

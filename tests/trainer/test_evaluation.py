"""Prequential metrics against scikit-learn, windows and periods against a naive selection."""

from __future__ import annotations

from datetime import datetime

import msgspec
import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from schema.config import PeriodConfig
from trainer import evaluation
from trainer.evaluation import Evaluation, SavedEvaluation

HOUR = 3_600_000
START = "2024-03-01T00:00:00+08:00"
TASKS = ("click", "like")


def millis(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


class Rows:
    """Scored rows over three days, some pairs masked."""

    def __init__(self, n: int = 6000) -> None:
        rng = np.random.default_rng(3)
        self.times = millis(START) - 24 * HOUR + rng.integers(0, 72 * HOUR, n)
        self.predictions = rng.uniform(0.01, 0.9, (n, 2)).astype(np.float32)
        self.labels = (rng.uniform(size=(n, 2)) < self.predictions**1.5).astype(np.float32)
        self.mask = (rng.uniform(size=(n, 2)) < 0.8).astype(np.float32)

    def into(self, it: Evaluation, part: slice) -> None:
        it.update(self.predictions[part], self.labels[part], self.mask[part], self.times[part])


def made() -> Evaluation:
    period = PeriodConfig(
        start=datetime.fromisoformat(START), end=datetime.fromisoformat("2024-03-02T00:00:00+08:00")
    )
    return Evaluation(TASKS, 86400.0, 8.0, period)


def check(summary, rows: Rows, chosen) -> None:
    assert summary["rows"] == chosen.sum()
    for task, name in enumerate(TASKS):
        counted = chosen & (rows.mask[:, task] > 0)
        y, p = rows.labels[counted, task], rows.predictions[counted, task].astype(float)
        entropy = log_loss(y, np.full(len(y), y.mean()))
        assert summary["auc"][name] == pytest.approx(roc_auc_score(y, p), abs=1e-3)
        assert summary["log_loss"][name] == pytest.approx(log_loss(y, p), rel=1e-6)
        assert summary["normalised_entropy"][name] == pytest.approx(log_loss(y, p) / entropy, rel=1e-6)
        assert summary["calibration"][name] == pytest.approx(p.sum() / y.sum(), rel=1e-6)


def test_overall_period_and_windows_are_those_of_the_rows():
    rows, it = Rows(), made()
    for i in range(0, 6000, 512):
        rows.into(it, slice(i, i + 512))
    report = it.report()
    check(report["overall"], rows, rows.times > 0)
    day = millis(START)
    check(report["period"], rows, (rows.times >= day) & (rows.times < day + 24 * HOUR))
    assert [w["start"] for w in report["windows"]] == [day - 24 * HOUR, day, day + 24 * HOUR]
    for window in report["windows"]:
        check(window, rows, (rows.times >= window["start"]) & (rows.times < window["start"] + 24 * HOUR))


def test_a_saved_evaluation_goes_on_as_if_it_had_not_stopped():
    rows, whole, first = Rows(), made(), made()
    rows.into(whole, slice(0, 4000))
    rows.into(first, slice(0, 2500))
    first.state()  # what is kept of it must not outlive the rows that follow
    rows.into(first, slice(2500, 3000))
    second = made()
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=SavedEvaluation))
    rows.into(second, slice(3000, 4000))
    mine, its = second.report(), whole.report()
    for span in ("overall", "period"):
        for name, want in its[span].items():
            assert mine[span][name] == pytest.approx(want, rel=1e-9)
    assert [w["rows"] for w in mine["windows"]] == [w["rows"] for w in its["windows"]]


def test_a_report_follows_what_came_after_the_last():
    rows, it = Rows(), made()
    rows.into(it, slice(0, 100))
    assert it.report()["overall"]["rows"] == 100
    rows.into(it, slice(100, 300))
    assert it.report()["overall"]["rows"] == 300


def test_only_the_newest_windows_are_kept(monkeypatch):
    monkeypatch.setattr(evaluation, "WINDOWS_KEPT", 2)
    rows, it = Rows(), made()
    rows.into(it, slice(None))
    assert [w["start"] for w in it.report()["windows"]] == [millis(START), millis(START) + 24 * HOUR]
    assert it.report()["overall"]["rows"] == 6000


def test_no_window_and_no_period_where_none_is_wanted():
    rows, it = Rows(), Evaluation(TASKS, 0, 0, None)
    rows.into(it, slice(None))
    assert it.report()["windows"] == []
    assert it.report()["period"] is None


def test_surfaces_are_kept_apart_and_come_back():
    rng = np.random.default_rng(0)
    p, y = rng.random((300, 1)).astype("f4"), rng.integers(0, 2, (300, 1)).astype("f4")
    mask, surfaces = np.ones((300, 1), "f4"), rng.integers(0, 3, 300)
    evaluation = Evaluation(["click"], 0, 0, None)
    for part in (slice(100), slice(100, 300)):
        evaluation.update_surfaces(p[part], y[part], mask[part], surfaces[part])
    other = Evaluation(["click"], 0, 0, None)
    other.restore(evaluation.state())
    for kept in (evaluation, other):
        found = kept.report()["surfaces"]
        assert set(found) == {"0", "1", "2"}
        of = surfaces == 1
        assert found["1"]["rows"] == of.sum()
        assert found["1"]["calibration"]["click"] == pytest.approx(p[of].sum() / y[of].sum(), rel=1e-5)

"""What can be watched of the metrics: Prometheus by task, window and surface, and a TensorBoard log."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import REGISTRY

from trainer import telemetry
from trainer.errors import ExtraMissing
from trainer.evaluation import Evaluation
from trainer.tensorboard import TensorBoardLog

TASKS = ("click", "like")
DAY = 86_400_000


def evaluation() -> Evaluation:
    made, rng = Evaluation(TASKS, 86400.0, 0.0, None), np.random.default_rng(5)
    for day in range(2):
        p = rng.random((500, 2)).astype("f4")
        labels, mask = (rng.random((500, 2)) < p).astype("f4"), np.ones((500, 2), "f4")
        surfaces, users = rng.integers(0, 2, 500), rng.integers(0, 20, 500)
        made.update(p, labels, mask, np.full(500, day * DAY))
        made.update_surfaces(p, labels, mask, surfaces)
        made.by_user.update(p, labels, mask, np.ones(500, "f4"), users)
    return made


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"headwater_trainer_{name}", labels)


def test_prometheus_shows_all_rows_the_newest_window_and_surfaces():
    made = evaluation()
    telemetry.observe_quality(3, made.quality())
    report = made.report()
    for task in TASKS:
        for name in ("auc", "normalised_entropy", "calibration"):
            assert shown(name, task=task) == report["overall"][name][task]
            assert shown(f"window_{name}", task=task) == report["windows"][-1][name][task]
            for surface in ("0", "1"):
                want = report["surfaces"][surface][name][task]
                assert shown(f"surface_{name}", task=task, surface=surface) == want
        assert shown("user_grouped_auc", task=task) == made.by_user.report()[task]


def test_a_log_for_tensorboard_has_the_same_numbers(tmp_path, monkeypatch):
    written = {}

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, tag, value, step):
            written[tag] = (value, step)

        def close(self):
            written["closed"] = self.folder

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    made, handed = evaluation(), []
    log = TensorBoardLog(tmp_path)
    log.also(lambda step, quality: handed.append((step, quality)))(7, made.quality())
    log.close()
    assert handed[0][0] == 7
    report = made.report()
    assert written["overall/auc/click"] == (report["overall"]["auc"]["click"], 7)
    assert written["window/calibration/like"] == (report["windows"][-1]["calibration"]["like"], 7)
    assert written["surface 1/log_loss/like"] == (report["surfaces"]["1"]["log_loss"]["like"], 7)
    assert written["recent/user_grouped_auc/click"] == (made.by_user.report()["click"], 7)
    assert written["closed"] == str(tmp_path)


def test_what_is_not_a_number_is_not_written(tmp_path, monkeypatch):
    values = []
    writer = SimpleNamespace(add_scalar=lambda _tag, value, _step: values.append(value))
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda _folder: writer)
    )
    TensorBoardLog(tmp_path).write(1, Evaluation(TASKS, 86400.0, 0.0, None).quality())
    assert all(map(math.isfinite, values))


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ExtraMissing, match=r"trainer.tensorboard: true, but .*headwater\[tensorboard\]"):
        TensorBoardLog(tmp_path)

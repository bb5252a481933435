"""AUC by user over the newest rows, and what rows of a sampled stream count for."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from models.metrics import TaskMetrics, grouped_auc
from schema.records import column
from tests.trainer import make
from tests.trainer.test_loop import stream, world
from trainer.by_user import ByUser
from trainer.pieces import Piece, PieceRows, piece

TASKS = ("click", "like")


def rows(seed: int, n: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.01, 0.99, (n, 2)).astype(np.float32)
    labels = (rng.uniform(size=(n, 2)) < p).astype(np.float32)
    mask = (rng.uniform(size=(n, 2)) < 0.8).astype(np.float32)
    return p, labels, mask, rng.uniform(1, 5, n).astype(np.float32), rng.integers(0, 9, n)


def test_the_newest_rows_count_however_they_came():
    everything = rows(0, 300)
    at_once, in_parts = ByUser(TASKS, 100), ByUser(TASKS, 100)
    at_once.update(*everything)
    for start in range(0, 300, 7):
        in_parts.update(*(column_[start : start + 7] for column_ in everything))
    p, labels, mask, weights, users = (column_[-100:] for column_ in everything)
    known = mask[:, 1] > 0
    expected = grouped_auc(p[known, 1], labels[known, 1], users[known], weights[known])
    assert at_once.report()["like"] == in_parts.report()["like"] == expected


def test_it_comes_back_from_a_checkpoint_as_it_was():
    before, after = ByUser(TASKS, 50), ByUser(TASKS, 50)
    before.update(*rows(1, 40))
    before.update(*rows(2, 40))
    after.restore(before.saved())
    assert after.report() == before.report()
    for it in (before, after):
        it.update(*rows(3, 20))
    assert after.saved() == before.saved()
    assert after.report() == before.report()


def test_nothing_seen_is_not_a_number():
    assert np.isnan(list(ByUser(TASKS).report().values())).all()


def sampled(labels: list[list[float]], log_keep: list[float]) -> Piece:
    block = msgspec.structs.replace(
        make.block(0), labels=column(labels, "<f4"), log_keep=column(log_keep, "<f4")
    )
    found = piece(block, block.mask)
    assert found is not None
    return found


def test_what_nobody_engaged_with_counts_once_over_its_chance_of_having_been_kept():
    rows = PieceRows([sampled([[0, 0], [1, 0], [0, 1]], [np.log(0.25)] * 3)])
    assert rows.weights().tolist() == pytest.approx([4, 1, 1])


def test_a_sampled_stream_is_judged_as_the_whole_one_would_be():
    """Negatives kept with a chance that depends on their score change neither calibration nor AUC."""
    rng = np.random.default_rng(7)
    p = rng.uniform(0.02, 0.5, 200_000)
    labels = (rng.uniform(size=len(p)) < p).astype(np.float64)
    keep = np.where(labels > 0, 1, np.clip(p, 0.1, 1))
    kept = rng.uniform(size=len(p)) < keep
    users = rng.integers(0, 500, len(p))

    def judged(at: np.ndarray, weights: np.ndarray | None) -> list[float]:
        metrics = TaskMetrics(1)
        metrics.update(p[at, None], labels[at, None], np.ones((at.sum(), 1)), weights)
        figures = (
            metrics.auc(),
            metrics.calibration(),
            metrics.mean_log_loss(),
            metrics.normalised_entropy(),
        )
        by_user = grouped_auc(p[at], labels[at], users[at], weights)
        return [*(float(figure[0]) for figure in figures), by_user]

    whole = judged(np.ones(len(p), bool), None)
    assert judged(kept, 1 / keep[kept]) == pytest.approx(whole, rel=0.02)
    assert judged(kept, None)[1] < 0.7 * whole[1], "without weights it would not be"


def test_the_trainer_reports_it(tmp_path):
    with world(tmp_path, stream(1)) as made:
        before = made.life()
        found = before.state.report()["user_auc"]
        assert 0 < found["click"] < 1
        assert made.start().state.report()["user_auc"] == found

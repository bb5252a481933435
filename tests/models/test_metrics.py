"""Streaming metrics against scikit-learn, over many batches and merged states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from models.metrics import TaskMetrics, grouped_auc


def scored(seed: int, n: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, spread, (n, 2))
    predictions = 1 / (1 + np.exp(-logits))
    labels = (rng.uniform(size=(n, 2)) < 1 / (1 + np.exp(-0.7 * logits))).astype(np.float32)
    mask = (rng.uniform(size=(n, 2)) < 0.7).astype(np.float32)
    return predictions.astype(np.float32), labels, mask


@pytest.mark.parametrize("spread", [0.05, 1.0, 6.0])
def test_equals_scikit_learn(spread):
    predictions, labels, mask = scored(1, 8000, spread)
    metrics = TaskMetrics(2)
    for i in range(0, 8000, 700):
        part = slice(i, i + 700)
        metrics.update(predictions[part], labels[part], mask[part])
    for task in range(2):
        seen = mask[:, task] > 0
        y, p = labels[seen, task], np.clip(predictions[seen, task].astype(float), 1e-7, 1 - 1e-7)
        rate = np.full(len(y), y.mean(dtype=float))
        assert metrics.counts()[task] == seen.sum()
        assert metrics.auc()[task] == pytest.approx(roc_auc_score(y, p), abs=1e-3)
        assert metrics.mean_log_loss()[task] == pytest.approx(log_loss(y, p), rel=1e-9)
        assert metrics.calibration()[task] == pytest.approx(p.sum() / y.sum(), rel=1e-9)
        want = log_loss(y, p) / log_loss(y, rate)
        assert metrics.normalised_entropy()[task] == pytest.approx(want, rel=1e-6)


@given(seed=st.integers(0, 500), cut=st.integers(0, 200))
def test_two_states_add_up(seed, cut):
    predictions, labels, mask = scored(seed, 200, 1.0)
    whole, first, second = TaskMetrics(2), TaskMetrics(2), TaskMetrics(2)
    whole.update(predictions, labels, mask)
    first.update(predictions[:cut], labels[:cut], mask[:cut])
    second.update(predictions[cut:], labels[cut:], mask[cut:])
    first.add(second)
    assert np.array_equal(first.positives, whole.positives)
    assert np.array_equal(first.negatives, whole.negatives)
    for name in ("auc", "normalised_entropy", "calibration", "mean_log_loss"):
        np.testing.assert_allclose(getattr(first, name)(), getattr(whole, name)(), rtol=1e-9)


def test_equal_predictions_count_half():
    metrics = TaskMetrics(1)
    metrics.update(np.full((4, 1), 0.3), np.array([[0], [1], [1], [0]], float), np.ones((4, 1)))
    assert metrics.auc()[0] == 0.5


def test_nothing_seen_is_not_a_number():
    metrics = TaskMetrics(2)
    metrics.update(np.full((3, 2), 0.3), np.array([[0, 1]] * 3, float), np.array([[1, 0]] * 3))
    assert np.isnan(metrics.auc()).all()
    assert np.isnan(metrics.calibration()).all()
    assert np.isnan(metrics.normalised_entropy()).all()
    assert np.isfinite(metrics.mean_log_loss()[0])
    assert np.isnan(metrics.mean_log_loss()[1])


def test_certain_predictions_count():
    metrics = TaskMetrics(1)
    metrics.update(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), np.ones((2, 1)))
    assert metrics.auc()[0] == 1.0
    assert np.isfinite(metrics.mean_log_loss()[0])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, np.inf])
def test_what_is_not_a_probability_is_refused_and_counts_nothing(bad):
    metrics = TaskMetrics(1)
    with pytest.raises(ValueError, match="legal is a probability"):
        metrics.update(np.array([[0.5], [bad]]), np.ones((2, 1)), np.ones((2, 1)))
    assert metrics.counts()[0] == 0


def test_a_masked_pair_may_be_anything():
    metrics = TaskMetrics(1)
    metrics.update(np.array([[0.5], [np.nan]]), np.array([[1.0], [np.nan]]), np.array([[1], [0]]))
    assert metrics.counts()[0] == 1


@given(seed=st.integers(0, 1000), rows=st.integers(0, 60), groups=st.integers(1, 8))
def test_grouped_auc_is_the_mean_of_each_groups(seed, rows, groups):
    rng = np.random.default_rng(seed)
    p, y, g = rng.integers(0, 5, rows) / 5, rng.integers(0, 2, rows), rng.integers(0, groups, rows)
    found = [
        (roc_auc_score(y[g == k], p[g == k]), (g == k).sum()) for k in range(groups) if len({*y[g == k]}) == 2
    ]
    value = grouped_auc(p, y, g)
    if not found:
        assert np.isnan(value)
    else:
        aucs, sizes = zip(*found, strict=True)
        assert value == pytest.approx(np.average(aucs, weights=sizes))


@given(seed=st.integers(0, 500), n=st.integers(0, 60))
def test_counts_are_those_of_a_plain_loop(seed, n):
    predictions, labels, mask = scored(seed, n, 3.0)
    weights = np.random.default_rng(seed).uniform(0.5, 4, n).astype(np.float32)
    metrics = TaskMetrics(2)
    metrics.update(predictions, labels, mask, weights)
    want = np.zeros((2, 4))
    for row, task in zip(*np.nonzero(mask), strict=True):
        p, y, w = float(predictions[row, task]), float(labels[row, task]), float(weights[row])
        loss = -(y * np.log(p) + (1 - y) * np.log1p(-p))
        want[task] += [w * y, w * (1 - y), w * p, w * loss]
        place = int((np.log(p) - np.log1p(-p) + 16) * 8192 / 32)
        assert (metrics.positives if y else metrics.negatives)[task, place - 1 : place + 2].any()
    have = [metrics.positives.sum(1), metrics.negatives.sum(1), metrics.predicted, metrics.log_loss]
    np.testing.assert_allclose(np.stack(have, axis=1), want, rtol=1e-9)


def test_what_is_no_probability_is_refused_and_nothing_counted():
    metrics = TaskMetrics(1)
    for bad in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="one is not in 0 to 1"):
            metrics.update(np.array([[0.5], [bad]]), np.ones((2, 1)), np.ones((2, 1)))
        metrics.update(np.array([[bad]]), np.ones((1, 1)), np.zeros((1, 1)))
    assert not metrics.counts().any()

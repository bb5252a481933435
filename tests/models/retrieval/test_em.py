"""Scores and the M-step against slow oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.beam import Beams, search
from models.retrieval.em import PathScores, m_step, penalty
from models.retrieval.inverted import path_sizes
from models.retrieval.placement import best_free_paths, random_paths
from tests.models.retrieval import naive


def _beams(rng, users, paths, width):
    codes = np.stack([rng.permutation(paths)[:width] for _ in range(users)]).astype(np.int32)
    return Beams(codes, np.log(rng.uniform(0.001, 1, (users, width))).astype(np.float32))


def _as_dicts(scores):
    rows = zip(scores.paths.tolist(), scores.scores.tolist(), strict=True)
    return [{p: s for p, s in zip(paths, values, strict=True) if p >= 0} for paths, values in rows]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kept=st.integers(1, 6), width=st.integers(1, 8))
def test_streamed_scores_are_those_of_the_oracle(seed, kept, width):
    rng = np.random.default_rng(seed)
    scores, expected = PathScores.empty(4, kept), [{} for _ in range(4)]
    for _ in range(5):
        beams = _beams(rng, 3, 12, width)
        items, users = rng.integers(0, 4, 10), rng.integers(0, 3, 10)
        scores.update(items, users, beams, 0.9)
        for item, user in zip(items, users, strict=True):
            beam = dict(zip(beams.paths[user].tolist(), np.exp(beams.log_probs[user]).tolist(), strict=True))
            expected[item] = naive.updated(expected[item], beam, kept, 0.9)
    for found, wanted in zip(_as_dicts(scores), expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)


def test_a_path_that_enters_a_full_list_starts_from_its_minimum():
    scores = PathScores.empty(1, 2)
    at = np.zeros(1, np.int64)
    scores.update(
        at, at, Beams(np.array([[3, 5]], np.int32), np.log(np.array([[0.6, 0.2]], np.float32))), 0.5
    )
    scores.update(at, at, Beams(np.array([[9]], np.int32), np.log(np.array([[0.3]], np.float32))), 0.5)
    assert _as_dicts(scores)[0] == pytest.approx({3: 0.3, 9: 0.4})
    assert scores.weights.tolist() == [1.5]


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_an_m_step_is_the_oracles(alpha, seed):
    rng = np.random.default_rng(seed)
    scores = PathScores.empty(30, 5)
    for _ in range(10):
        scores.update(rng.integers(0, 25, 20), rng.integers(0, 6, 20), _beams(rng, 6, 9, 4), 0.95)
    start = random_paths(np.arange(30), 9, 3, seed)
    found = m_step(scores, start, 9, alpha, 2)
    wanted = start.tolist()
    for _ in range(2):
        some = [v for v, known in enumerate(_as_dicts(scores)) if known]
        moved = naive.swept(_as_dicts(scores), scores.weights.astype(np.float64), wanted, alpha)
        wanted = [moved[v] if v in some else wanted[v] for v in range(30)]
    assert found.tolist() == wanted


def test_sweeps_do_not_lower_the_objective_of_single_paths():
    rng = np.random.default_rng(7)
    scores = PathScores.empty(40, 9)
    for _ in range(40):
        scores.update(rng.integers(0, 40, 50), rng.integers(0, 6, 50), _beams(rng, 6, 9, 9), 1.0)
    placed, values = random_paths(np.arange(40), 9, 1, 0), []
    for _ in range(4):
        values.append(naive.objective(_as_dicts(scores), scores.weights.astype(float), placed, 0.01))
        placed = m_step(scores, placed, 9, 0.01, 1)
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_the_penalty_spreads_the_items():
    rng = np.random.default_rng(0)
    scores = PathScores.empty(200, 10)
    codes = np.tile(np.arange(10, dtype=np.int32), (4, 1))
    beams = Beams(codes, np.log(np.tile(np.arange(10, 0, -1, dtype=np.float32) / 55, (4, 1))))
    scores.update(np.arange(200), rng.integers(0, 4, 200), beams, 1.0)
    start = random_paths(np.arange(200), 10, 1, 0)
    sizes = {alpha: path_sizes(m_step(scores, start, 10, alpha, 3), 10) for alpha in (0.0, 1e-4)}
    assert sizes[0.0].max() == 200
    assert sizes[1e-4].max() < 40
    assert penalty(sizes[1e-4], 1e-4) < penalty(sizes[0.0], 1e-4) / 100
    assert penalty(np.array([2, 0, 1]), 0.5) == pytest.approx(0.5 * 17 / 4)


def test_scores_grow_and_forget():
    scores = PathScores.empty(1, 2)
    at = np.zeros(1, np.int64)
    scores.update(at, at, Beams(np.array([[3]], np.int32), np.zeros((1, 1), np.float32)), 0.5)
    scores.grow(3)
    scores.grow(2)
    assert _as_dicts(scores) == [{3: 1.0}, {}, {}]
    scores.forget(at)
    assert _as_dicts(scores) == [{}, {}, {}]
    assert scores.weights.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("items", "users", "decay", "name"),
    [
        ([5], [0], 0.9, "items"),
        ([0], [-1], 0.9, "users"),
        ([0], [0], 0, "decay"),
        ([0, 1], [0], 0.9, "users"),
    ],
)
def test_updates_that_do_not_fit_are_refused(items, users, decay, name):
    beams = Beams(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32))
    with pytest.raises(ValueError, match=name):
        PathScores.empty(2, 2).update(np.array(items), np.array(users), beams, decay)


def test_random_paths_are_distinct_and_depend_on_seed_and_item_alone():
    items = np.arange(1000)
    paths = random_paths(items, 20, 5, 3)
    assert (np.diff(np.sort(paths, axis=1), axis=1) > 0).all()
    assert paths.min() == 0
    assert paths.max() == 19
    np.testing.assert_array_equal(random_paths(items[::-1], 20, 5, 3)[::-1], paths)
    assert (random_paths(items, 20, 5, 4) != paths).any()
    with pytest.raises(ValueError, match="slots: 3"):
        random_paths(items, 2, 3, 0)


def test_a_new_item_takes_its_likely_users_best_path_that_is_not_full():
    rng = np.random.default_rng(5)
    weights = naive.random_weights(rng, 4, 4, 2, 8)
    user = rng.normal(size=(1, 4)).astype(np.float32)
    best = search(weights, user, 16).paths[0]
    sizes = np.zeros(16, np.int64)
    assert best_free_paths(weights, user, sizes, 2, 16, 1e-3).tolist() == [best[:2].tolist()]
    assert sizes[best[:2]].tolist() == [1, 1]
    sizes[best[0]] = 1000
    assert best_free_paths(weights, user, sizes, 1, 16, 1e-3).tolist() == [[best[1]]]

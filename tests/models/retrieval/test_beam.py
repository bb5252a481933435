"""Beam search against enumeration, and retrieval against doing it by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.beam import retrieve, search
from models.retrieval.inverted import build_index
from models.retrieval.kernels import _log_sum_exp
from models.retrieval.postings import Postings, Reranker
from models.retrieval.weights import BeamWeights
from tests.models.retrieval import naive


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    nodes=st.integers(1, 7),
    depth=st.integers(1, 3),
    hidden=st.integers(1, 9),
    extra=st.integers(0, 5),
)
def test_a_beam_that_cuts_nothing_is_an_enumeration(seed, nodes, depth, hidden, extra):
    rng = np.random.default_rng(seed)
    weights = naive.random_weights(rng, 5, nodes, depth, hidden)
    users = rng.normal(size=(2, 5)).astype(np.float32)
    beam = nodes ** (depth - 1) + extra
    found = search(weights, users, beam)
    for user, paths, log_probs in zip(users, found.paths, found.log_probs, strict=True):
        every = naive.all_paths(weights, user.astype(np.float64))
        assert len(set(paths.tolist())) == len(paths) == min(beam, nodes**depth)
        np.testing.assert_allclose(log_probs, every[paths], atol=1e-4)
        np.testing.assert_allclose(log_probs, np.sort(every)[::-1][: len(paths)], atol=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_a_narrow_beam_keeps_the_best_cumulative_prefixes_of_each_layer(beam):
    rng = np.random.default_rng(4)
    weights = naive.random_weights(rng, 6, 5, 3, 8)
    user = rng.normal(size=6)
    prefixes: dict[tuple[int, ...], float] = {(): 0.0}
    for _ in range(3):
        grown = [(*prefix, node) for prefix in prefixes for node in range(5)]
        scored = {nodes: naive.log_prob(weights, user, nodes) for nodes in grown}
        prefixes = dict(sorted(scored.items(), key=lambda pair: -pair[1])[:beam])
    found = search(weights, user.astype(np.float32)[None], beam)
    codes = [a * 25 + b * 5 + c for a, b, c in prefixes]
    assert found.paths[0].tolist() == codes
    np.testing.assert_allclose(found.log_probs[0], list(prefixes.values()), atol=1e-4)


def test_equal_paths_come_in_the_order_of_their_codes():
    flat = BeamWeights(
        np.zeros((2, 3, 4), np.float32),
        np.zeros((2, 4), np.float32),
        np.zeros((1, 6, 4), np.float32),
        np.zeros((2, 4, 6), np.float32),
        np.zeros((2, 6), np.float32),
    )
    found = search(flat, np.ones((1, 3), np.float32), 8)
    assert found.paths[0].tolist() == list(range(8))


def test_a_user_gets_the_same_alone_as_in_a_batch():
    rng = np.random.default_rng(1)
    weights = naive.random_weights(rng, 8, 20, 2, 16)
    users = rng.normal(size=(9, 8)).astype(np.float32)
    together = search(weights, users, 6)
    for i in range(9):
        alone = search(weights, users[i : i + 1], 6)
        np.testing.assert_array_equal(alone.paths[0], together.paths[i])
        np.testing.assert_array_equal(alone.log_probs[0], together.log_probs[i])


@pytest.mark.parametrize("scale", [0.01, 1, 10, 100, 1000])
def test_the_normaliser_is_that_of_float64(scale):
    logits = (np.random.default_rng(2).normal(size=97) * scale).astype(np.float32)
    wide = logits.astype(np.float64)
    exact = wide.max() + np.log(np.exp(wide - wide.max()).sum())
    assert _log_sum_exp(logits) == pytest.approx(exact, rel=1e-6, abs=1e-5)


def _retrieved_by_hand(weights, assignments, reranker, user, sizes):
    beam, limit, top = sizes
    met: list[int] = []
    for path in search(weights, user[None], beam).paths[0]:
        met += [row for row in range(len(assignments)) if path in assignments[row] and row not in met]
    met = met[:limit]
    scores = reranker.vectors[met].astype(np.float64) @ user + reranker.bias[met]
    order = np.argsort(-scores, kind="stable")[:top]
    return np.array(met, np.int32)[order], scores[order], len(met)


@pytest.mark.parametrize(("limit", "top"), [(1, 1), (7, 3), (40, 10), (500, 50)])
def test_retrieval_walks_reranks_and_never_repeats_an_item(limit, top):
    rng = np.random.default_rng(limit)
    weights = naive.random_weights(rng, 8, 6, 2, 10)
    assignments = np.stack([rng.permutation(37)[:3] - 1 for _ in range(120)]).astype(np.int32)
    reranker = Reranker(rng.normal(size=(130, 8)).astype(np.float32), rng.normal(size=130).astype(np.float32))
    users = rng.normal(size=(5, 8)).astype(np.float32)
    index = build_index(assignments, 36)
    found = retrieve(weights, Postings.of(index, reranker), users, beam=9, limit=limit, top=top)
    for i, user in enumerate(users):
        rows, scores, met = _retrieved_by_hand(weights, assignments, reranker, user, (9, limit, top))
        kept = len(rows)
        assert (found.counts[i], found.reranked[i]) == (kept, met)
        assert found.rows[i, :kept].tolist() == rows.tolist()
        np.testing.assert_allclose(found.scores[i, :kept], scores, rtol=1e-4, atol=1e-5)
        assert (found.rows[i, kept:] == -1).all()
        assert np.isneginf(found.scores[i, kept:]).all()


def test_arguments_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    weights = naive.random_weights(rng, 4, 3, 2, 5)
    users = rng.normal(size=(2, 4)).astype(np.float32)
    index = build_index(np.array([[0], [8]], np.int32), 9)
    fits = Reranker(np.zeros((2, 4), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match="users"):
        search(weights, users[:, :3], 2)
    with pytest.raises(ValueError, match="beam"):
        search(weights, users, 0)
    with pytest.raises(ValueError, match="limit, top"):
        retrieve(weights, Postings.of(index, fits), users, beam=2, limit=0, top=1)
    other = Postings.of(build_index(np.array([[0]], np.int32), 8), fits)
    with pytest.raises(ValueError, match="postings: of 8 paths"):
        retrieve(weights, other, users, beam=2, limit=3, top=1)
    wide = Postings.of(index, Reranker(np.zeros((2, 5), np.float32), np.zeros(2, np.float32)))
    with pytest.raises(ValueError, match="postings: vectors of 5 values"):
        retrieve(weights, wide, users, beam=2, limit=3, top=1)
    for vectors, bias in ((1, 1), (2, 3)):
        with pytest.raises(ValueError, match="reranker"):
            Postings.of(index, Reranker(np.zeros((vectors, 4), np.float32), np.zeros(bias, np.float32)))
    with pytest.raises(ValueError, match="node_in"):
        BeamWeights(*weights.arrays()[:4], np.zeros((2, 4), np.float32))

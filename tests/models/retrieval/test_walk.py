"""Heaps, products and codes against doing it by hand; a walk against scoring everything by its vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval import heap
from models.retrieval.codes import ITEM_MOST, product_of_codes, user_codes
from models.retrieval.inverted import build_index
from models.retrieval.postings import Postings, Reranker
from models.retrieval.products import product
from models.retrieval.walk import hopeful, rerank

FLOATS = st.floats(width=32, allow_nan=False).map(lambda x: x + 0.0)
SEEDS = st.integers(0, 2**32 - 1)


@given(
    pairs=st.lists(st.tuples(FLOATS, st.integers(0, 2**32 - 1)), min_size=1, max_size=60),
    limit=st.integers(1, 20),
)
def test_a_heap_keeps_the_best_pairs_in_order_whatever_the_order_they_come_in(pairs, limit):
    keys, size = np.empty(limit, np.uint64), 0
    for score, code in pairs:
        size = heap.offer(keys, size, limit, heap.key_of(np.float32(score), code))
    heap.order(keys, size)
    found = [(heap.score_of(key), heap.code_of(key)) for key in keys[:size]]
    assert found == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:limit]


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_not_a_number_ranks_with_the_lowest(sign):
    nan = np.copysign(np.float32(np.nan), np.float32(sign))
    assert heap.key_of(nan, 3) == heap.key_of(np.float32(-np.inf), 3)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 70), width=st.integers(1, 150))
def test_products_are_those_of_float64(seed, rows, width):
    rng = np.random.default_rng(seed)
    values, start = (rng.normal(size=n).astype(np.float32) for n in (rows, width))
    matrix, around = rng.normal(size=(rows, width)).astype(np.float32), np.zeros(width + 2, np.float32)
    product(values, matrix, start, around[1:-1])
    wanted = start + values.astype(np.float64) @ matrix
    np.testing.assert_allclose(around[1:-1], wanted, rtol=1e-4, atol=1e-4)
    assert around[0] == around[-1] == 0


def _coded_by_hand(vector):
    """Codes of an item, and their unit."""
    largest = np.abs(vector).max(initial=0)
    if not largest <= np.float32(1e30):
        return np.zeros(len(vector)), np.nan
    if largest < np.float32(1e-30):
        return np.zeros(len(vector)), 2 * largest
    return np.rint(vector * (np.float32(127) / largest)), largest / np.float32(127)


def _random_reranker(rng, rows, dim, odd):
    """Vectors of many sizes; with `odd` also ones that are not finite, too large or too small to multiply."""
    vectors = rng.normal(size=(rows, dim)) * np.exp(rng.normal(size=(rows, 1)))
    vectors *= rng.choice([1, 1, 1e-33, 1e25, 0], size=(rows, 1)) if odd else 1
    if odd:
        vectors[rng.random((rows, dim)) < 0.02] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
    bias = rng.normal(size=rows) * rng.choice([0, 1, 100])
    return Reranker(vectors.astype(np.float32), bias.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, dim=st.integers(1, 40), odd=st.booleans())
def test_postings_hold_the_codes_of_each_list_s_items(seed, dim, odd):
    rng = np.random.default_rng(seed)
    reranker = _random_reranker(rng, 30, dim, odd)
    assignments = np.stack([rng.permutation(8)[:3] - 1 for _ in range(25)]).astype(np.int32)
    index = build_index(assignments, 7)
    postings = Postings.of(index, reranker)
    assert postings.codes.shape == (len(index.members), -(-dim // 16) * 16)
    for at, row in enumerate(index.members):
        codes, unit = _coded_by_hand(reranker.vectors[row])
        assert postings.codes[at].tolist() == [*codes, *[0] * (postings.codes.shape[1] - dim)]
        np.testing.assert_array_equal(postings.terms[at], [unit, reranker.bias[row]])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, blocks=st.integers(1, 20))
def test_products_of_codes_are_exact_and_do_not_overflow(seed, blocks):
    rng = np.random.default_rng(seed)
    width, terms = 16 * blocks, np.empty(3, np.float32)
    items = rng.integers(-127, 128, (3, width)).astype(np.int8)
    items[1] = ITEM_MOST
    user = np.zeros(width, np.int16)
    user_codes(np.ones(width, np.float32) if rng.random() < 0.5 else items[2].astype(np.float32), user, terms)
    for row in range(3):
        wanted = int(user.astype(object) @ items[row].astype(object))
        assert product_of_codes(user, items.reshape(-1), row * width) == np.float32(wanted)
        assert abs(wanted) < 2**31


def _walked(user, postings, places, top):
    """Rows, scores, and how many were scored by their vectors, of `places` in `postings`."""
    limit, width = len(places), postings.codes.shape[1]
    rows, keys = np.empty(limit, np.int32), np.empty(top, np.uint64)
    floats = [np.empty(limit, np.float32) for _ in range(2)]
    reranker, members = postings.reranker, postings.index.members
    hopes = hopeful(
        user,
        places,
        limit,
        members,
        postings.codes.reshape(-1),
        postings.terms,
        top,
        np.zeros(width, np.int16),
        *floats,
        keys,
        rows,
    )
    kept = rerank(user, rows, hopes, reranker.vectors, reranker.bias, top, keys)
    return keys[:kept].tolist(), hopes


def _all_by_their_vectors(user, postings, places, top):
    rows, keys = postings.index.members[places], np.empty(top, np.uint64)
    vectors, bias = postings.reranker.vectors, postings.reranker.bias
    kept = rerank(user, rows, len(rows), vectors, bias, top, keys)
    return keys[:kept].tolist()


@settings(max_examples=200, deadline=None)
@given(
    seed=SEEDS,
    dim=st.integers(1, 70),
    top=st.integers(1, 40),
    size=st.sampled_from([1.0, 1e-3, 1e4, 1e-33, 1e30]),
    odd=st.booleans(),
)
def test_what_codes_rule_out_is_not_among_the_best(seed, dim, top, size, odd):
    """Bit for bit: whatever the values are, and where many are alike."""
    rng = np.random.default_rng(seed)
    reranker = _random_reranker(rng, 200, dim, odd)
    alike = rng.random(200) < 0.3
    reranker.vectors[alike] = reranker.vectors[0] * np.float32(1 + 1e-6)
    postings = Postings.of(build_index(rng.integers(0, 5, (200, 1)).astype(np.int32), 5), reranker)
    user = (rng.normal(size=dim) * size).astype(np.float32)
    if odd and rng.random() < 0.2:
        user[0] = rng.choice([np.nan, np.inf, 0])
    places = rng.permutation(200)[: rng.integers(1, 200)]
    found, hopes = _walked(user, postings, places, top)
    assert found == _all_by_their_vectors(user, postings, places, top)
    assert min(top, len(places)) <= hopes <= len(places)


def test_few_are_scored_by_their_vectors():
    rng = np.random.default_rng(0)
    reranker = Reranker(rng.normal(size=(3000, 64)).astype(np.float32), np.zeros(3000, np.float32))
    postings = Postings.of(build_index(np.zeros((3000, 1), np.int32), 1), reranker)
    user = rng.normal(size=64).astype(np.float32)
    _, hopes = _walked(user, postings, np.arange(3000), 100)
    assert hopes < 150

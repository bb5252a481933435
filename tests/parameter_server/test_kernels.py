"""The compiled kernels against their oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.kernels import batches, hashing, rows
from parameter_server.store import distinct
from tests.parameter_server import naive

IDS = st.integers(0, 2**64 - 1)


@given(IDS)
def test_mix_equals_the_oracle(x: int) -> None:
    assert int(hashing.mix64(np.uint64(x))) == naive.mix64(x)


@given(IDS, st.integers(2, 40))
def test_the_alternate_bucket_is_another_one_and_leads_back(hashed: int, bits: int) -> None:
    mask = np.uint64((1 << bits) - 1)
    bucket, tag = np.uint64(hashed) & mask, hashing.tag_of(np.uint64(hashed))
    other = hashing.alternate(bucket, tag, mask)
    assert 1 <= tag <= 255
    assert other != bucket
    assert other <= mask
    assert hashing.alternate(np.uint64(other), tag, mask) == bucket


@given(IDS, IDS, st.integers(1, 33), st.floats(0, 10, width=32))
def test_first_vector_equals_the_oracle(wanted: int, seed: int, dim: int, scale: float) -> None:
    vectors = np.zeros((3, dim), np.float32)
    rows.first_vectors(np.array([wanted], np.uint64), seed, scale, np.array([1]), vectors)
    assert np.array_equal(vectors[1], naive.first_vector(seed, wanted, dim, scale))
    assert not vectors[[0, 2]].any()


def test_first_vectors_are_uniform_within_the_scale() -> None:
    ids = np.arange(20_000, dtype=np.uint64)
    vectors = np.empty((len(ids), 8), np.float32)
    rows.first_vectors(ids, 3, 0.25, np.arange(len(ids)), vectors)
    assert -0.25 <= vectors.min() < -0.249
    assert 0.249 < vectors.max() < 0.25
    counts, _ = np.histogram(vectors, bins=10, range=(-0.25, 0.25))
    assert np.allclose(counts / vectors.size, 0.1, atol=0.003)
    assert np.abs(np.corrcoef(vectors.T) - np.eye(8)).max() < 0.03


@given(st.lists(IDS, max_size=40) | st.lists(st.integers(0, 5), max_size=40))
def test_distinct_numbers_ids_by_first_occurrence(ids: list[int]) -> None:
    firsts, groups = distinct(np.array(ids, np.uint64))
    unique = list(dict.fromkeys(ids))
    assert [ids[i] for i in firsts] == unique
    assert [unique[g] for g in groups] == ids


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 20))
def test_sums_of_groups_equal_the_oracle(ids: list[int], dim: int) -> None:
    values = np.random.default_rng(0).normal(size=(len(ids), dim)).astype(np.float32)
    firsts, groups = distinct(np.array(ids, np.uint64))
    sums = np.zeros((len(firsts), dim), np.float32)
    batches.sum_groups(values, groups, sums)
    assert np.array_equal(sums, list(naive.summed(ids, values).values()))


@given(st.dictionaries(IDS, st.integers(0, 2**32), max_size=20), st.integers(1, 20))
def test_digest_equals_the_oracle_in_any_order(seeds: dict[int, int], dim: int) -> None:
    content = {i: np.random.default_rng(s).normal(size=dim).astype(np.float32) for i, s in seeds.items()}
    ids = np.array(list(content), np.uint64)
    vectors = np.array(list(content.values()), np.float32).reshape(-1, dim)
    for order in (np.arange(len(ids)), np.arange(len(ids))[::-1].copy()):
        assert rows.digest(ids, vectors.view(np.uint32), order) == naive.digest(content)


def test_digest_notices_one_bit_a_swap_and_a_missing_row() -> None:
    ids = np.array([1, 2, 3], np.uint64)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    every = np.arange(3)

    def digest(ids: np.ndarray, vectors: np.ndarray, chosen: np.ndarray = every) -> int:
        return int(rows.digest(ids, vectors.view(np.uint32), chosen))

    flipped = vectors.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    swapped = vectors[[1, 0, 2]]
    shuffled = vectors[:, [1, 0, 2, 3]].copy()
    seen = {digest(ids, v) for v in (vectors, flipped, swapped, shuffled)} | {digest(ids, vectors, every[:2])}
    assert len(seen) == 5


@given(st.lists(st.integers(0, 9), max_size=50), st.integers(0, 9))
def test_newer_rows_are_those_above_the_clock(versions: list[int], clock: int) -> None:
    column = np.array(versions, np.uint64)
    found = np.empty(rows.count_newer(column, clock), np.int64)
    assert rows.newer_rows(column, clock, found) == len(found)
    assert found.tolist() == [row for row, version in enumerate(versions) if version > clock]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_gradient_without_a_finite_square_is_found(bad: float) -> None:
    values = np.ones((40, 17), np.float32)
    assert rows.first_not_finite(values) == -1
    values[23, 16] = bad
    assert rows.first_not_finite(values) == 23


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 99))
def test_adagrad_equals_the_oracle(dim: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(3, dim)).astype(np.float32)
    accumulators = np.full(3, 0.1, np.float32)
    expected, state = vectors[1].astype(np.float64), 0.1
    for _ in range(steps):
        gradient = rng.normal(size=(1, dim)).astype(np.float32)
        rows.rowwise_adagrad(vectors, accumulators, np.array([1]), gradient, 0.05, 1e-8)
        expected, state = naive.adagrad(expected, state, gradient[0], 0.05, 1e-8)
    assert np.allclose(vectors[1], expected, atol=1e-6)
    assert accumulators[1] == pytest.approx(state, rel=1e-5)
    assert accumulators[[0, 2]].tolist() == [np.float32(0.1)] * 2

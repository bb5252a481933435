"""The compiled kernels against their oracles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.checks import distinct
from parameter_server.kernels import batches, hashing, rows
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
        assert rows.digest(ids[order], vectors[order].view(np.uint32)) == naive.digest(content)


def test_digest_notices_one_bit_a_swap_and_a_missing_row() -> None:
    ids = np.array([1, 2, 3], np.uint64)
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    every = np.arange(3)

    def digest(ids: np.ndarray, vectors: np.ndarray, chosen: np.ndarray = every) -> int:
        return int(rows.digest(ids[chosen], vectors[chosen].view(np.uint32)))

    flipped = vectors.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    swapped = vectors[[1, 0, 2]]
    shuffled = vectors[:, [1, 0, 2, 3]].copy()
    seen = {digest(ids, v) for v in (vectors, flipped, swapped, shuffled)} | {digest(ids, vectors, every[:2])}
    assert len(seen) == 5


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(0, 9))
def test_newer_rows_are_those_above_the_clock(versions: list[int], clock: int) -> None:
    records = np.zeros((len(versions), rows.RECORD), np.uint64)
    summary = np.zeros(-(-len(versions) // rows.BLOCK), np.uint64)
    for row, version in enumerate(versions):
        rows.touch(
            records.reshape(-1), records.reshape(-1).view(np.uint32), summary, np.array([row]), version, 0
        )
    found = np.empty(len(versions), np.int64)
    count = rows.newer_rows(records.reshape(-1), summary, clock, found)
    assert found[:count].tolist() == [row for row, version in enumerate(versions) if version > clock]
    assert rows.newer_rows(records.reshape(-1), summary, clock, found[:1]) == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_gradient_without_a_finite_square_is_found(bad: float) -> None:
    values = np.ones((40, 17), np.float32)
    assert rows.first_not_finite(values) == -1
    values[23, 16] = bad
    assert rows.first_not_finite(values) == 23

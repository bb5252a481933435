"""Keys to buckets to shards."""

from __future__ import annotations

import numpy as np
import pytest

from parameter_server.router import BUCKETS, bucket_of, shard_of, split
from schema.ids import feature_id


def bucket_range(shard: int, shards: int) -> range:
    """The buckets of `shard` of `shards`: contiguous, and as equal in number as they can be."""
    return range(-(-shard * BUCKETS // shards), -(-(shard + 1) * BUCKETS // shards))


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 7, 1000, 1024])
def test_shards_own_contiguous_ranges_that_cover_all_buckets(shards: int) -> None:
    ranges = [bucket_range(shard, shards) for shard in range(shards)]
    assert [bucket for r in ranges for bucket in r] == list(range(BUCKETS))
    sizes = {len(r) for r in ranges}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 16])
def test_an_id_goes_to_the_shard_that_owns_its_bucket(shards: int) -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 2000, dtype=np.uint64)
    owners = shard_of(ids, shards)
    for bucket, owner in zip(bucket_of(ids).tolist(), owners.tolist(), strict=True):
        assert bucket in bucket_range(owner, shards)


@pytest.mark.parametrize("shards", [2, 3, 5])
def test_small_consecutive_feature_ids_are_balanced(shards: int) -> None:
    ids = np.array([feature_id(slot, value) for slot in (1, 9) for value in range(20_000)], np.uint64)
    counts = np.bincount(shard_of(ids, shards), minlength=shards)
    assert np.allclose(counts / len(ids), 1 / shards, atol=0.01)


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_split_partitions_positions_in_order(shards: int) -> None:
    ids = np.arange(100, dtype=np.uint64)
    seen = np.zeros(100, np.int64)
    for shard, where in split(ids, shards):
        chosen = np.arange(100)[where]
        assert (shard_of(ids[chosen], shards) == shard).all()
        assert (np.diff(chosen) > 0).all()
        seen[chosen] += 1
    assert (seen == 1).all()


def test_ids_by_shard_are_split_without_a_copy() -> None:
    ids = np.arange(100, dtype=np.uint64)
    by_shard = ids[np.argsort(shard_of(ids, 3), kind="stable")]
    parts = [by_shard[where] for _, where in split(by_shard, 3)]
    assert all(np.shares_memory(part, by_shard) for part in parts)
    assert np.array_equal(np.concatenate(parts), by_shard)
    assert all((shard_of(part, 3) == shard).all() for shard, part in enumerate(parts))


def test_routing_never_changes() -> None:
    ids = np.array([0, 1, 2**63, 2**64 - 1, feature_id(3, 12345)], np.uint64)
    assert bucket_of(ids).tolist() == [916, 636, 276, 829, 724]

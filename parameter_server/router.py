"""Which shard holds an id: id to one of 1,024 virtual buckets by a mixed hash, buckets to shards by ranges.

Knows nothing of connections. The hash is not the index's own, so that the ids of one shard still spread
over the whole of its index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.records import I64, U64

BUCKETS: Final = 1024
_BUCKET_SHIFT: Final = np.uint64(64 - 10)
_SALT: Final = np.uint64(0xD6E8FEB86659FD93)
_MULTIPLY_1: Final = np.uint64(0xFF51AFD7ED558CCD)
_MULTIPLY_2: Final = np.uint64(0xC4CEB9FE1A85EC53)
_HALF: Final = np.uint64(33)


def bucket_of(ids: U64) -> I64:
    """The virtual bucket of each id, in [0, 1024), shape (n,). The mix is MurmurHash3's 64-bit finaliser."""
    h = ids ^ _SALT
    h ^= h >> _HALF
    h *= _MULTIPLY_1
    h ^= h >> _HALF
    h *= _MULTIPLY_2
    buckets: I64 = (h >> _BUCKET_SHIFT).astype(np.int64)
    return buckets


def shard_of(ids: U64, shards: int) -> I64:
    """The shard of each id, shape (n,).

    Args:
        ids: shape (n,).
        shards: how many shards there are, 1 to 1,024.
    """
    return bucket_of(ids) * shards // BUCKETS


def split(ids: U64, shards: int) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    """For every shard, in order, the positions in `ids` that it holds: a slice if all lie by shard."""
    if shards == 1:
        yield 0, slice(0, len(ids))
        return
    owner = shard_of(ids, shards)
    ends = np.searchsorted(owner, np.arange(shards + 1)).tolist() if (owner[1:] >= owner[:-1]).all() else None
    for shard in range(shards):
        yield shard, np.flatnonzero(owner == shard) if ends is None else slice(ends[shard], ends[shard + 1])

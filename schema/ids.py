"""Feature ids and partition keys. Pure functions; knows nothing of records or roles.

A feature id is 64 bits: the slot in the upper 16, the value in the lower 48. An integer value in
[0, 2**48) goes in as it is, so two of them never collide. Any other value is hashed to 48 bits: among
n hashed values of one slot the odds that any two collide are about n**2 / 2**49 (one in five hundred for
a million values, one in fifty million for ten thousand).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

VALUE_BITS: Final = 48
VALUE_LIMIT: Final = 1 << VALUE_BITS
SLOT_LIMIT: Final = 1 << 16


def feature_id(slot: int, value: int | str) -> int:
    """The 64-bit id of `value` in `slot`.

    Raises:
        ValueError: `slot` is not in [0, 65536).
    """
    if not 0 <= slot < SLOT_LIMIT:
        raise ValueError(f"slot: {slot}; legal is 0 to {SLOT_LIMIT - 1}")
    if isinstance(value, int) and 0 <= value < VALUE_LIMIT:
        return slot << VALUE_BITS | value
    return slot << VALUE_BITS | _hash48(str(value))


def feature_ids(slot: int, values: Iterable[int | str]) -> tuple[int, ...]:
    """As `feature_id`, of many values of one slot."""
    base = feature_id(slot, 0)
    # the common case in line: this runs once for each item of each history
    return tuple(
        base | v if isinstance(v, int) and 0 <= v < VALUE_LIMIT else feature_id(slot, v) for v in values
    )


def slot_of(feature: int) -> int:
    """The slot of a feature id."""
    return feature >> VALUE_BITS


@lru_cache(maxsize=1 << 16)
def _hash48(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "little")


def user_key(user_id: int) -> bytes:
    """The Kafka key of a user's messages: the decimal id, so that any client produces the same."""
    return b"%d" % user_id


@lru_cache(maxsize=1 << 18)
def partition_of(user_id: int, partitions: int) -> int:
    """The partition of a user: Kafka's own default (murmur2 of the key), so foreign producers agree.

    Args:
        user_id: any integer.
        partitions: the number of partitions of the topic, at least 1.
    """
    return (murmur2(user_key(user_id)) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Austin Appleby's MurmurHash2 (32 bit, seed 0x9747b28c), as Kafka's default partitioner uses it."""
    mask, mix = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    body = len(data) & ~3
    for i in range(0, body, 4):
        k = int.from_bytes(data[i : i + 4], "little") * mix & mask
        k = (k ^ k >> 24) * mix & mask
        h = (h * mix & mask) ^ k
    if body != len(data):
        h = (h ^ int.from_bytes(data[body:], "little")) * mix & mask
    h = (h ^ h >> 13) * mix & mask
    return h ^ h >> 15

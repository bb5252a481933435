"""The hashes of the kernels: a 64-bit mix, and where an id's hash puts it in the index.

The index is a partial-key cuckoo table: an id's second bucket follows from its first and its one-byte tag,
so an entry can be moved without its id (Fan et al., MemC3, NSDI 2013).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import F32, U64, kernel

SLOTS: Final = 4
"""Entries a bucket."""

TAG_SHIFT: Final = np.uint64(56)
ROW_MASK: Final = np.uint64((1 << 56) - 1)
ONE: Final = np.uint64(1)
_ZERO: Final = np.uint64(0)
_SPREAD: Final = np.uint64(0xC6A4A7935BD1E995)
_SPREAD_SHIFT: Final = np.uint64(20)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_SHIFT_1: Final = np.uint64(30)
_SHIFT_2: Final = np.uint64(27)
_SHIFT_3: Final = np.uint64(31)
_FLOAT_SHIFT: Final = np.uint64(40)
_UNIT: Final = np.float32(2.0**-23)


@kernel(U64(U64))
def mix64(x: Any) -> Any:
    """The finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) after one step of its counter."""
    x += _GOLDEN
    x = (x ^ (x >> _SHIFT_1)) * _MIX_1
    x = (x ^ (x >> _SHIFT_2)) * _MIX_2
    return x ^ (x >> _SHIFT_3)


@kernel(U64(U64))
def tag_of(hashed: Any) -> Any:
    """The tag of a hash, 1 to 255: 0 marks an empty slot."""
    tag = hashed >> TAG_SHIFT
    return tag if tag != _ZERO else ONE


@kernel(U64(U64, U64, U64))
def alternate(bucket: Any, tag: Any, mask: Any) -> Any:
    """The other bucket of an entry with `tag`; its own inverse. The two differ, as the offset is odd."""
    return (bucket ^ ((tag * _SPREAD) >> _SPREAD_SHIFT | ONE)) & mask


@kernel(F32(U64, U64))
def unit_uniform(base: Any, counter: Any) -> Any:
    """Uniform in [-1, 1), from 24 bits of a hash of (base, counter): exact in float32."""
    bits = mix64(base + counter * _GOLDEN) >> _FLOAT_SHIFT
    return np.float32(np.int64(bits)) * _UNIT - np.float32(1.0)

"""A bounded heap of the best (score, code) pairs, its worst at the root. Compiled into other kernels.

Pairs are ordered by score, high first, and on a tie by code, low first, so that a result never depends on
the order in which its pairs were offered. A pair is one u64, its key: keys are compared at once, and without
a branch that nobody could predict.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import F32, I64, U64, VOID, made
from runtime.compiled import fused_kernel as kernel

_KEYS = made(U64, 1)
_NONE: Final = np.uint64(0)
_ONE: Final = np.uint64(1)
_WORD: Final = np.uint64(32)
_CODES: Final = np.uint64(0xFFFFFFFF)
_LOWEST: Final = np.float32(-np.inf)
_SIGN: Final = np.int32(-(2**31))
_TO_THE_END: Final = np.int32(31)


@kernel(U64(F32, I64))
def key_of(score: Any, code: Any) -> Any:
    """The key of a pair, `code` from 0 and below 2^32; NaN counts as the lowest score."""
    known = score if score == score else _LOWEST  # noqa: PLR0124 - which is how a kernel asks for NaN
    bits = np.float32(known).view(np.int32)
    # floats below zero are ordered the other way round
    ordered = np.uint32(bits ^ (bits >> _TO_THE_END | _SIGN))
    return np.uint64(ordered) << _WORD | (_CODES - np.uint64(code))


@kernel(I64(U64))
def code_of(key: Any) -> Any:
    """The code of a key."""
    return np.int64(_CODES - (key & _CODES))


@kernel(F32(U64))
def score_of(key: Any) -> Any:
    """The score of a key."""
    ordered = np.int32(np.uint32(key >> _WORD))
    return np.int32(ordered ^ (~(ordered >> _TO_THE_END) | _SIGN)).view(np.float32)


@kernel(VOID(_KEYS, U64, U64))
def _sink(keys: Any, size: Any, key: Any) -> None:
    """Put `key` in the root's place, and the least of the `size` keys there."""
    at, child, last = _NONE, _ONE, size - _ONE
    while child < last:
        left, right = keys[child], keys[child + _ONE]
        child += np.uint64(right < left)
        least = min(left, right)
        if least >= key:
            break
        keys[at] = least
        at, child = child, child + child + _ONE
    if child == last and keys[child] < key:
        keys[at] = keys[child]
        at = child
    keys[at] = key


@kernel(I64(_KEYS, I64, I64, U64))
def offer(keys: Any, size: Any, limit: Any, key: Any) -> Any:
    """Keep a key if it is among the best `limit`; the heap's size then."""
    if size == limit:
        if key > keys[0]:
            _sink(keys, np.uint64(size), key)
        return size
    at = np.uint64(size)
    while at > _NONE:
        parent = (at - _ONE) >> _ONE
        if keys[parent] <= key:
            break
        keys[at] = keys[parent]
        at = parent
    keys[at] = key
    return size + 1


@kernel(VOID(_KEYS, I64))
def order(keys: Any, size: Any) -> None:
    """Turn the heap's `size` keys into a list, best first."""
    for last in range(np.int64(size) - 1, 0, -1):
        key, keys[last] = keys[last], keys[0]
        _sink(keys, np.uint64(last), key)

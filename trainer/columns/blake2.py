"""BLAKE2b (RFC 7693) of eight bytes, without a key, compiled: `schema.stages.trace_of` of many ids."""

# ruff: noqa: PLR0917 - a mixing step takes what it mixes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I64, U8, U64, VOID, inlined, kernel, made, taken
from schema.stages import TRACED

_START: Final = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
_ORDER: Final = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.int64,
)
_ROUNDS: Final = 12
_BLOCK: Final = 128
_SIZE: Final = 8
_ONE: Final = np.uint64(1)
_PARAMETERS: Final = np.uint64(0x01010000 | _SIZE)
"""One leaf, no tree, no key, and how many bytes are wanted."""


@inlined
def _turned(word: Any, by: Any) -> Any:
    return (word >> np.uint64(by)) | (word << np.uint64(64 - by))


@inlined
def _mix(v: Any, a: Any, b: Any, c: Any, d: Any, x: Any, y: Any) -> None:
    v[a] += v[b] + x
    v[d] = _turned(v[d] ^ v[a], 32)
    v[c] += v[d]
    v[b] = _turned(v[b] ^ v[c], 24)
    v[a] += v[b] + y
    v[d] = _turned(v[d] ^ v[a], 16)
    v[c] += v[d]
    v[b] = _turned(v[b] ^ v[c], 63)


@kernel(VOID(made(U64, 1), made(U64, 1), made(U64, 1), U64, U64), allocates=False)
def _compress(state: Any, words: Any, v: Any, counted: Any, last: Any) -> None:
    """Take a block of sixteen `words` into `state` (8,); `v` (16,) is scratch."""
    for i in range(8):
        v[i], v[i + 8] = state[i], _START[i]
    v[12] ^= counted
    if last:
        v[14] = ~v[14]
    for number in range(_ROUNDS):
        order = _ORDER[number % 10]
        for i in range(4):
            _mix(v, i, i + 4, i + 8, i + 12, words[order[2 * i]], words[order[2 * i + 1]])
        for i in range(4):
            x, y = words[order[8 + 2 * i]], words[order[9 + 2 * i]]
            _mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, x, y)
    for i in range(8):
        state[i] ^= v[i] ^ v[i + 8]


@kernel(VOID(taken(U8, 1), taken(I64, 1), taken(I64, 1), made(I64, 1)))
def traces(data: Any, starts: Any, sizes: Any, out: Any) -> None:
    """The trace of each text of bytes data[starts[i] : starts[i] + sizes[i]], (n,)."""
    state, words, v = np.empty(8, np.uint64), np.empty(16, np.uint64), np.empty(16, np.uint64)
    for number in range(len(starts)):
        state[:] = _START
        state[0] ^= _PARAMETERS
        at, left, counted = starts[number], sizes[number], np.int64(0)
        while True:
            here = min(left, np.int64(_BLOCK))
            words[:] = np.uint64(0)
            for i in range(here):
                words[i // 8] |= np.uint64(data[at + i]) << np.uint64(8 * (i % 8))
            at, left, counted = at + here, left - here, counted + here
            _compress(state, words, v, np.uint64(counted), np.uint64(left == 0))
            if left == 0:
                break
        trace = np.int64(state[0] >> _ONE)
        out[number] = trace if trace % TRACED == 0 else 0

"""Counters of ids not yet admitted: open addressing with linear probing, one byte a count, exact up to 255.

`ids` is uint64 (n,), n a power of two; `counts` uint8 (n,), 0 marks a free cell. Never more than
four fifths full, which the caller sees to.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import mix64
from parameter_server.kernels.signatures import U8_OUT, U64_IN, U64_OUT
from runtime.compiled import BOOL, I64, U64, VOID, kernel

FULL: Final = 255
"""The highest count; a counter that reaches it stays there."""


@kernel(I64(U64_OUT, U8_OUT, U64))
def _cell(ids: Any, counts: Any, wanted: Any) -> Any:
    """Where `wanted` is, or would go."""
    mask = np.uint64(len(ids) - 1)
    cell = np.int64(mix64(wanted) & mask)
    while counts[cell] != 0 and ids[cell] != wanted:
        cell = np.int64(np.uint64(cell + 1) & mask)
    return cell


@kernel(I64(U64_OUT, U8_OUT, U64_IN, U8_OUT))
def sight(ids: Any, counts: Any, seen: Any, totals: Any) -> Any:
    """Count each id of `seen` (n,) once more; its count into `totals` (n,). How many ids are new."""
    fresh = np.int64(0)
    for i in range(len(seen)):
        cell = _cell(ids, counts, seen[i])
        if counts[cell] == 0:
            ids[cell] = seen[i]
            fresh += 1
        if counts[cell] < FULL:
            counts[cell] += np.uint8(1)
        totals[i] = counts[cell]
    return fresh


@kernel(BOOL(I64, I64, I64))
def _between(low: Any, middle: Any, high: Any) -> Any:
    """Whether `middle` lies in (low, high] of a ring."""
    if low <= high:
        return low < middle <= high
    return low < middle or middle <= high


@kernel(I64(U64_OUT, U8_OUT, U64_IN))
def forget(ids: Any, counts: Any, unwanted: Any) -> Any:
    """Drop the counters of `unwanted` (n,), moving those behind up; how many there were."""
    mask = np.uint64(len(ids) - 1)
    dropped = np.int64(0)
    for i in range(len(unwanted)):
        hole = _cell(ids, counts, unwanted[i])
        if counts[hole] == 0:
            continue
        dropped += 1
        counts[hole] = 0
        cell = np.int64(np.uint64(hole + 1) & mask)
        while counts[cell] != 0:
            if not _between(hole, np.int64(mix64(ids[cell]) & mask), cell):
                ids[hole], counts[hole] = ids[cell], counts[cell]
                counts[cell] = 0
                hole = cell
            cell = np.int64(np.uint64(cell + 1) & mask)
    return dropped


@kernel(I64(U64_OUT, U8_OUT, U64_OUT, U8_OUT, I64))
def copy(ids: Any, counts: Any, new_ids: Any, new_counts: Any, shift: Any) -> Any:
    """Enter every counter, divided by 2 ** shift, into the empty new arrays; how many are above 0."""
    kept = np.int64(0)
    for cell in range(len(ids)):
        count = counts[cell] >> shift
        if count > 0:
            place = _cell(new_ids, new_counts, ids[cell])
            new_ids[place], new_counts[place] = ids[cell], count
            kept += 1
    return kept


@kernel(VOID(U64_IN, U8_OUT, U64, U64_OUT))
def draws(ids: Any, totals: Any, seed: Any, out: Any) -> None:
    """A hash, uniform in [0, 2 ** 64), of (seed, id, count) into `out` (n,)."""
    for i in range(len(ids)):
        out[i] = mix64(mix64(ids[i] ^ mix64(seed)) + np.uint64(totals[i]))

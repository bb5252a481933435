"""Loops over rows: gather, first vectors, versions, delta scan, content digest."""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.hashing import mix64, unit_uniform
from parameter_server.kernels.search import LAST, ask_row, confirmed, hash_all, stages
from parameter_server.kernels.signatures import (
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    I64_IN,
    I64_OUT,
    U32_MATRIX_IN,
    U32_OUT,
    U64_IN,
    U64_OUT,
)
from runtime.compiled import F32, I64, U32, U64, VOID, inlined, kernel
from runtime.prefetch import GROUP, prefetch

BLOCK: Final = 64
"""Rows that share one entry of the version summary."""
VERSION: Final = 1
"""The word of a record that has the version."""
HALVES: Final = 2 * RECORD
LAST_USE: Final = 4
"""The half word of a record that has the last use: the event time in whole seconds."""
OTHER: Final = 5
"""The half word of a record that is free for a row's one state value or its use count."""
_RECORD: Final = np.uint64(RECORD)
_ZERO: Final = np.uint64(0)
_HALF: Final = np.uint64(32)
_DIGEST: Final = np.uint64(0x9FB21C651E98DF25)


@kernel(VOID(U64, U64, F32, F32_MATRIX_OUT, I64), allocates=False)
def _first_vector(wanted: Any, seed: Any, scale: Any, out: Any, i: Any) -> None:
    base = mix64(wanted ^ mix64(seed))
    for j in range(out.shape[1]):
        out[i, j] = unit_uniform(base, np.uint64(j)) * scale


@kernel(VOID(U64_IN, U64, F32, I64_IN, F32_MATRIX_OUT))
def first_vectors(ids: Any, seed: Any, scale: Any, rows: Any, vectors: Any) -> None:
    """Write the first vector of each id (n,) to vectors[rows], uniform in [-scale, scale).

    A pure function of (seed, id): the same in every process, for any order and number of shards.
    """
    for i in range(len(ids)):
        _first_vector(ids[i], seed, scale, vectors, rows[i])


@kernel(
    VOID(
        *(U64_IN, U64_IN, U64_IN, U64_IN, F32_MATRIX_IN, U64_IN, U64, F32),
        *(U64_OUT, I64_OUT, F32_MATRIX_OUT),
    ),
    allocates=False,
)
def lookup(
    old: Any,
    new: Any,
    sequence: Any,
    records: Any,
    vectors: Any,
    wanted: Any,
    seed: Any,
    scale: Any,
    hashes: Any,
    rows: Any,
    out: Any,
) -> None:
    """The vector of each id of `wanted` (n,) into `out` (n, dim): its row, or unseen its first vector.

    The stages of `search.py`. `hashes` and `rows` (n,) are scratch.
    """
    n, dim = len(wanted), vectors.shape[1]
    flat = vectors.reshape(-1)
    wide = np.uint64(dim)
    hash_all(wanted, hashes)
    for ahead in range(n + LAST):
        stages(new, records, flat, dim, hashes, rows, ahead)
        i = ahead - LAST
        if i >= 0:
            row = confirmed(old, new, sequence, records, rows[i], wanted[i], hashes[i])
            if row >= 0:
                start = np.uint64(row) * wide
                for j in range(wide):
                    out[np.uint64(i), j] = flat[start + j]
            else:
                _first_vector(wanted[i], seed, scale, out, i)


@kernel(VOID(F32_MATRIX_IN, I64_IN, I64_IN, F32_MATRIX_OUT), allocates=False)
def gather(vectors: Any, rows: Any, places: Any, out: Any) -> None:
    """Copy vectors[rows] (n, w) to the first w columns of out[places]."""
    n, width = len(rows), vectors.shape[1]
    flat = vectors.reshape(-1)
    wide = np.uint64(width)
    for i in range(n):
        if i + GROUP < n:
            ask_row(flat, width, rows[i + GROUP])
        start = np.uint64(rows[i]) * wide
        for j in range(wide):
            out[np.uint64(places[i]), j] = flat[start + j]


@kernel(F32(F32_MATRIX_IN, I64), reorder_sums=True)
def mean_square(gradients: Any, i: Any) -> Any:
    """The mean square of row i."""
    total = np.float32(0.0)
    for j in range(gradients.shape[1]):
        total += gradients[i, j] * gradients[i, j]
    return total / np.float32(gradients.shape[1])


@kernel(I64(F32_MATRIX_IN))
def first_not_finite(gradients: Any) -> Any:
    """The first row whose mean square is not a finite float32 (so neither its NaN nor its inf), or -1."""
    for i in range(gradients.shape[0]):
        if not np.isfinite(mean_square(gradients, i)):
            return i
    return np.int64(-1)


@kernel(VOID(F32_MATRIX_OUT, F32_MATRIX_IN, F32))
def clip_rows(gradients: Any, original: Any, norm: Any) -> None:
    """Scale each row of `gradients`, a copy of `original`, down to at most `norm` in Euclidean length."""
    for i in range(gradients.shape[0]):
        length = np.sqrt(mean_square(original, i) * np.float32(gradients.shape[1]))
        if length > norm:
            for j in range(gradients.shape[1]):
                gradients[i, j] = original[i, j] * (norm / length)


@inlined
def touch_row(records: Any, halves: Any, summary: Any, row: Any, clock: Any, event_second: Any) -> None:
    """`touch` for one row, uint64."""
    records[row * _RECORD + np.uint64(VERSION)] = clock
    last_use = row * np.uint64(HALVES) + np.uint64(LAST_USE)
    halves[last_use] = max(halves[last_use], event_second)
    block = row // np.uint64(BLOCK)
    summary[block] = max(summary[block], clock)


@kernel(VOID(U64_OUT, U32_OUT, U64_OUT, I64_IN, U64, U32))
def touch(records: Any, halves: Any, summary: Any, rows: Any, clock: Any, event_second: Any) -> None:
    """Set the version of the records of `rows` to `clock`, and raise their last use to `event_second`.

    `halves` is a view of `records`; `summary` has the highest version of each BLOCK rows.
    """
    for i in range(len(rows)):
        if i + GROUP < len(rows):
            prefetch(records, rows[i + GROUP] * RECORD)
            prefetch(records, rows[i + GROUP] * RECORD + (RECORD - 1))
        touch_row(records, halves, summary, np.uint64(rows[i]), clock, event_second)


@kernel(I64(U64_IN, U64_IN, U64, I64_OUT))
def newer_rows(records: Any, summary: Any, since: Any, rows: Any) -> Any:
    """The rows with a version above `since`, ascending, into `rows`; how many there are.

    Stops to write when `rows` is full, but counts on. Skips blocks whose highest version is too low.
    """
    count = np.int64(0)
    total = len(records) // RECORD
    for block in range(-(-total // BLOCK)):
        if summary[block] > since:
            for row in range(block * BLOCK, min((block + 1) * BLOCK, total)):
                if records[row * RECORD + VERSION] > since:
                    if count < len(rows):
                        rows[count] = row
                    count += 1
    return count


@kernel(U64(U64_IN, U32_MATRIX_IN))
def digest(ids: Any, words: Any) -> Any:
    """The sum modulo 2 ** 64 of a strong mix of each row's id and vector bits: the order does not matter.

    Args:
        ids: uint64 (n,), the id of each row.
        words: the vectors' bits, uint32 (n, dim).
    """
    total = _ZERO
    for i in range(len(ids)):
        state = mix64(ids[i])
        for j in range(words.shape[1]):
            state = (state ^ np.uint64(words[i, j])) * _DIGEST
            state ^= state >> _HALF
        total += mix64(state)
    return total

"""Loops over rows: gather, first vectors, row-wise Adagrad, delta scan, content digest."""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.cuckoo import find_group
from parameter_server.kernels.hashing import mix64, unit_uniform
from parameter_server.kernels.prefetch import GROUP, prefetch
from parameter_server.kernels.signatures import (
    F32,
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    F32_OUT,
    I64,
    I64_IN,
    I64_OUT,
    U32_MATRIX_IN,
    U64,
    U64_IN,
    U64_OUT,
    VOID,
    kernel,
)

_LINE: Final = 16
"""float32 values a cache line."""
_ZERO: Final = np.uint64(0)
_HALF: Final = np.uint64(32)
_DIGEST: Final = np.uint64(0x9FB21C651E98DF25)


@kernel(VOID(U64, U64, F32, F32_MATRIX_OUT, I64))
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


@kernel(VOID(U64_IN, U64_IN, F32_MATRIX_IN, U64_IN, U64, F32, F32_MATRIX_OUT))
def lookup(slots: Any, ids: Any, vectors: Any, wanted: Any, seed: Any, scale: Any, out: Any) -> None:
    """The vector of each id of `wanted` (n,) into `out` (n, dim): its row, or unseen its first vector."""
    hashes = np.empty(GROUP, np.uint64)
    rows = np.empty(len(wanted), np.int64)
    flat = vectors.reshape(-1)
    dim = vectors.shape[1]
    for start in range(0, len(wanted), GROUP):
        stop = min(start + GROUP, len(wanted))
        find_group(slots, ids, wanted, start, stop, hashes, rows)
        for i in range(start, stop):
            for j in range(0, dim, _LINE):
                prefetch(flat, max(rows[i], 0) * dim + j)
        for i in range(start, stop):
            if rows[i] >= 0:
                for j in range(dim):
                    out[i, j] = vectors[rows[i], j]
            else:
                _first_vector(wanted[i], seed, scale, out, i)


@kernel(F32(F32_MATRIX_IN, I64), reorder_sums=True)
def _mean_square(gradients: Any, i: Any) -> Any:
    total = np.float32(0.0)
    for j in range(gradients.shape[1]):
        total += gradients[i, j] * gradients[i, j]
    return total / np.float32(gradients.shape[1])


@kernel(I64(F32_MATRIX_IN))
def first_not_finite(gradients: Any) -> Any:
    """The first row whose mean square is not a finite float32 (so neither its NaN nor its inf), or -1."""
    for i in range(gradients.shape[0]):
        if not np.isfinite(_mean_square(gradients, i)):
            return i
    return np.int64(-1)


@kernel(VOID(F32_MATRIX_OUT, F32_OUT, I64_IN, F32_MATRIX_IN, F32, F32))
def rowwise_adagrad(
    vectors: Any, accumulators: Any, rows: Any, gradients: Any, rate: Any, epsilon: Any
) -> None:
    """Update vectors[rows] in place from gradients (n, dim); rows are distinct.

    acc += mean(g ** 2); w -= rate * g / (sqrt(acc) + epsilon): Adagrad (Duchi, Hazan and Singer, JMLR 2011)
    with one accumulator a row.
    """
    flat = vectors.reshape(-1)
    dim = vectors.shape[1]
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        for i in range(start, stop):
            prefetch(accumulators, rows[i])
            for j in range(0, dim, _LINE):
                prefetch(flat, rows[i] * dim + j)
        for i in range(start, stop):
            row = rows[i]
            accumulators[row] += _mean_square(gradients, i)
            step = rate / (np.sqrt(accumulators[row]) + epsilon)
            for j in range(dim):
                vectors[row, j] -= step * gradients[i, j]


@kernel(VOID(U64_OUT, I64_OUT, I64_IN, U64, I64))
def touch(versions: Any, last_use: Any, rows: Any, clock: Any, event_time: Any) -> None:
    """Set versions[rows] to `clock` and raise last_use[rows] to `event_time`."""
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        for i in range(start, stop):
            prefetch(versions, rows[i])
            prefetch(last_use, rows[i])
        for i in range(start, stop):
            versions[rows[i]] = clock
            last_use[rows[i]] = max(last_use[rows[i]], event_time)


@kernel(I64(U64_IN, U64))
def count_newer(versions: Any, since: Any) -> Any:
    """How many versions are above `since`."""
    count = 0
    for row in range(len(versions)):
        count += versions[row] > since
    return np.int64(count)


@kernel(I64(U64_IN, U64, I64_OUT))
def newer_rows(versions: Any, since: Any, rows: Any) -> Any:
    """The rows with a version above `since`, ascending, into `rows`; stops when it is full; how many."""
    count = 0
    for row in range(len(versions)):
        if versions[row] > since and count < len(rows):
            rows[count] = row
            count += 1
    return np.int64(count)


@kernel(U64(U64_IN, U32_MATRIX_IN, I64_IN))
def digest(ids: Any, words: Any, rows: Any) -> Any:
    """The sum modulo 2 ** 64 of a strong mix of each row's id and vector bits: the order does not matter.

    Args:
        ids: uint64, the id of each row.
        words: the vectors' bits, uint32 (rows, dim).
        rows: int64 (n,), which rows count.
    """
    total = _ZERO
    for i in range(len(rows)):
        row = rows[i]
        state = mix64(ids[row])
        for j in range(words.shape[1]):
            state = (state ^ np.uint64(words[row, j])) * _DIGEST
            state ^= state >> _HALF
        total += mix64(state)
    return total

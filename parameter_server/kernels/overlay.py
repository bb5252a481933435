"""Loops over a round's rows on their way into a replica: a hash of them, lookups in it, copying them over."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import mix64
from parameter_server.kernels.prefetch import GROUP, prefetch
from parameter_server.kernels.signatures import (
    F32_MATRIX_IN,
    F32_MATRIX_OUT,
    I64,
    I64_IN,
    I64_OUT,
    U64_IN,
    VOID,
    kernel,
)

_FREE: Final = -1
_LINE: Final = 16
"""float32 values a cache line."""


@kernel(I64(I64_OUT, U64_IN, I64, I64))
def enter(heads: Any, ids: Any, start: Any, stop: Any) -> Any:
    """Enter ids[start:stop] into a hash, each instead of an equal one before `start`.

    Args:
        heads: int64, a power of two of cells, more than twice as many as ids; -1 marks a free one.
        ids: uint64 (n,).
        start: the first to enter.
        stop: behind the last.

    Returns:
        The first place in [start, stop) whose id is there twice, or -1. Entering has stopped at it.
    """
    mask = np.uint64(len(heads) - 1)
    for i in range(start, stop):
        cell = np.int64(mix64(ids[i]) & mask)
        while heads[cell] != _FREE and ids[heads[cell]] != ids[i]:
            cell = np.int64(np.uint64(cell + 1) & mask)
        if heads[cell] >= start:
            return i
        heads[cell] = i
    return np.int64(-1)


@kernel(VOID(I64_IN, U64_IN, U64_IN, I64_OUT))
def places(heads: Any, ids: Any, wanted: Any, out: Any) -> None:
    """Where each id of `wanted` (n,) was last entered, or -1, into `out` (n,)."""
    mask = np.uint64(len(heads) - 1)
    for i in range(len(wanted)):
        cell = np.int64(mix64(wanted[i]) & mask)
        while heads[cell] != _FREE and ids[heads[cell]] != wanted[i]:
            cell = np.int64(np.uint64(cell + 1) & mask)
        out[i] = heads[cell]


@kernel(VOID(F32_MATRIX_IN, I64_IN, F32_MATRIX_OUT, I64_IN))
def copy_rows(source: Any, origins: Any, target: Any, rows: Any) -> None:
    """Write source[origins[i]] to target[rows[i]] for each i."""
    flat = target.reshape(-1)
    dim = target.shape[1]
    for start in range(0, len(rows), GROUP):
        stop = min(start + GROUP, len(rows))
        for i in range(start, stop):
            for j in range(0, dim, _LINE):
                prefetch(flat, rows[i] * dim + j)
        for i in range(start, stop):
            for j in range(dim):
                target[rows[i], j] = source[origins[i], j]

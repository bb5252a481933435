"""Loops over a round's rows on their way into a replica: a hash of them, lookups in it, copying them over."""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import mix64
from parameter_server.kernels.signatures import F32_MATRIX_IN, F32_MATRIX_OUT, I64_IN, I64_OUT, U64_IN
from runtime.compiled import I64, VOID, kernel
from runtime.prefetch import GROUP, prefetch

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


@kernel(I64(I64_IN, U64_IN, I64_IN, F32_MATRIX_IN, I64_IN, F32_MATRIX_OUT, I64_OUT))
def copy_last(heads: Any, ids: Any, origins: Any, source: Any, rows: Any, target: Any, rest: Any) -> Any:
    """Write the last change of each id that has a row in `target` to it; which changes are left to do.

    Args:
        heads: the hash of `ids`.
        ids: uint64 (n,), an id as often as it changes.
        origins: int64 (n,): where in `source` the change's row is; -1 for a removal.
        source: float32 (m, width).
        rows: int64 (n,): where in `target` the id's row is; -1 for none.
        target: float32 (k, width).
        rest: out, int64 (n,): the last changes that add or remove a row, ascending.

    Returns:
        How many are in `rest`.
    """
    flat = target.reshape(-1)
    dim = target.shape[1]
    mask = np.uint64(len(heads) - 1)
    count = np.int64(0)
    for start in range(0, len(ids), GROUP):
        stop = min(start + GROUP, len(ids))
        for i in range(start, stop):
            for j in range(0, dim, _LINE):
                prefetch(flat, max(rows[i], 0) * dim + j)
        for i in range(start, stop):
            cell = np.int64(mix64(ids[i]) & mask)
            while ids[heads[cell]] != ids[i]:
                cell = np.int64(np.uint64(cell + 1) & mask)
            if heads[cell] == i and rows[i] >= 0 and origins[i] >= 0:
                for j in range(dim):
                    target[rows[i], j] = source[origins[i], j]
            elif heads[cell] == i and (rows[i] >= 0) != (origins[i] >= 0):
                rest[count] = i
                count += 1
    return count

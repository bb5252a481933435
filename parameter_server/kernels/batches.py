"""Loops over a batch on its way in: finding duplicate ids and summing their gradients."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import mix64
from parameter_server.kernels.signatures import F32_MATRIX_IN, F32_MATRIX_OUT, I64_IN, I64_OUT, U64_IN
from runtime.compiled import I64, VOID, kernel

_FREE: Final = -1


@kernel(I64(U64_IN, I64_OUT, I64_OUT))
def group(ids: Any, firsts: Any, groups: Any) -> Any:
    """Number the distinct ids in the order in which they first occur; how many there are.

    Args:
        ids: uint64 (n,).
        firsts: out, int64 (n,): for each distinct id, where it first occurs.
        groups: out, int64 (n,): for each position, the number of its id.
    """
    size = 16
    while size < 2 * len(ids):
        size *= 2
    mask = np.uint64(size - 1)
    heads = np.full(size, _FREE, np.int64)  # open addressing with linear probing
    count = np.int64(0)
    for i in range(len(ids)):
        cell = np.int64(mix64(ids[i]) & mask)
        while heads[cell] != _FREE and ids[firsts[heads[cell]]] != ids[i]:
            cell = np.int64(np.uint64(cell + 1) & mask)
        if heads[cell] == _FREE:
            heads[cell] = count
            firsts[count] = i
            count += 1
        groups[i] = heads[cell]
    return count


@kernel(VOID(F32_MATRIX_IN, I64_IN, F32_MATRIX_OUT))
def sum_groups(values: Any, groups: Any, sums: Any) -> None:
    """Add each row of `values` (n, dim) to the row of `sums` that `groups` (n,) names, in order."""
    for i in range(values.shape[0]):
        target = groups[i]
        for j in range(values.shape[1]):
            sums[target, j] += values[i, j]

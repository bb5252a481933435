"""What a table accepts from outside: ids and values of the right type and shape, made ready for kernels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parameter_server.errors import InvalidRequest
from parameter_server.kernels import batches
from schema.records import F32, I64, U64


def checked_ids(name: str, ids: NDArray[np.generic]) -> U64:
    """`ids` as the kernels take them.

    Raises:
        InvalidRequest: they are not a 1-D array of uint64.
    """
    if ids.dtype != np.uint64 or ids.ndim != 1:
        raise InvalidRequest(f"table {name}: ids: {ids.dtype} {ids.shape}; legal is uint64 (n,)")
    return np.require(ids, np.uint64, ["C_CONTIGUOUS", "ALIGNED"])


def checked_rows(name: str, what: str, values: NDArray[np.generic], rows: int, dim: int) -> F32:
    """`values` as the kernels take them.

    Raises:
        InvalidRequest: they are not float32 of shape (rows, dim).
    """
    if values.dtype != np.float32 or values.shape != (rows, dim):
        raise InvalidRequest(
            f"table {name}: {what}: {values.dtype} {values.shape}; legal is float32 {(rows, dim)}"
        )
    return np.require(values, np.float32, ["C_CONTIGUOUS", "ALIGNED"])


def distinct(ids: U64) -> tuple[I64, I64]:
    """Where each distinct id first occurs, shape (m,), and the number of each position's id, shape (n,)."""
    firsts, groups = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    count = batches.group(ids, firsts, groups)
    return firsts[:count], groups

"""The content digest of rows as replicas hold them: packed, and unpacked again. Knows no store's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from parameter_server.kernels import rows as kernels
from parameter_server.store import RowStore
from schema.records import F32, I64

_ROWS: Final = 65_536
_MODULUS: Final = 1 << 64


def digest(store: RowStore, rows: I64, seen: Callable[[F32], F32]) -> int:
    """An order-independent digest, in [0, 2**64), of the ids and vector bits of `rows` (n,).

    `seen` makes of the store's vectors (n, dim) what a reader of a replica sees.
    """
    total = 0
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        vectors = np.ascontiguousarray(seen(store.vectors(part)))
        total += int(kernels.digest(store.ids[part], vectors.view(np.uint32)))
    return total % _MODULUS

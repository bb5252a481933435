"""The content digest of rows as replicas hold them: packed, and unpacked again. Knows no table."""

from __future__ import annotations

from typing import Final

import numpy as np

from parameter_server import packing
from parameter_server.kernels import rows as kernels
from schema.config import ReplicaRows
from schema.records import F32, I64, U64

_ROWS: Final = 65_536
_MODULUS: Final = 1 << 64


def digest_vectors(ids: U64, vectors: F32, rows: I64, form: ReplicaRows) -> int:
    """The digest, in [0, 2**64), of what replicas make of vectors[rows]; `ids` and `vectors` are columns."""
    if form == "fp32":
        return int(kernels.digest(ids, vectors.view(np.uint32), rows))
    dim = vectors.shape[1]
    parts = (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))
    digests = (_digest_packed(ids, packing.pack(vectors[part], form), dim, part, form) for part in parts)
    return sum(digests) % _MODULUS


def digest_rows(ids: U64, packed: F32, dim: int, rows: I64, form: ReplicaRows) -> int:
    """As `digest_vectors`, where `packed` is a column of packed rows."""
    if form == "fp32":
        return int(kernels.digest(ids, packed.view(np.uint32), rows))
    parts = (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))
    return sum(_digest_packed(ids, packed[part], dim, part, form) for part in parts) % _MODULUS


def _digest_packed(ids: U64, packed: F32, dim: int, rows: I64, form: ReplicaRows) -> int:
    """The digest of the packed rows `packed` (n, width) of ids[rows]."""
    seen = packing.unpack(packed, dim, form)
    places = np.arange(len(rows), dtype=np.int64)
    return int(kernels.digest(ids[rows], np.ascontiguousarray(seen).view(np.uint32), places))

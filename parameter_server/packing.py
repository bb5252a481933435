"""How rows travel to replicas and lie in them: as they are, as float16, or as int8 with a scale a row.

Knows no table. A packed row is float32 words that hold other bits, so that tables and chunks move it as
they move any row; only looking it up unpacks it. What a replica's rows are worth is `unpack(pack(vectors))`:
the digests of shard and replica are both of that.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from schema.config import ReplicaRows
from schema.records import F32

_WORD: Final = 4
_LARGEST: Final = 127


def packed_width(dim: int, rows: ReplicaRows) -> int:
    """How many float32 words a packed row of `dim` values takes."""
    sizes = {"fp32": _WORD * dim, "fp16": 2 * dim, "int8": _WORD + dim}
    return -(-sizes[rows] // _WORD)


def pack(vectors: F32, rows: ReplicaRows) -> F32:
    """`vectors` (n, dim) as packed rows (n, packed_width). A value beyond float16 becomes its largest."""
    if rows == "fp32":
        return vectors
    count, dim = vectors.shape
    packed = np.zeros((count, packed_width(dim, rows)), np.float32)
    raw = packed.view(np.uint8).reshape(count, _WORD * packed.shape[1])
    if rows == "fp16":
        limit = np.finfo(np.float16).max
        halves = np.clip(vectors, -limit, limit).astype("<f2")
        raw[:, : 2 * dim] = halves.view(np.uint8).reshape(count, 2 * dim)
        return packed
    scales = np.abs(vectors).max(axis=1, initial=0) / np.float32(_LARGEST)
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    raw[:, :_WORD] = steps.astype("<f4").view(np.uint8).reshape(count, _WORD)
    rounded = np.clip(np.rint(vectors / steps[:, None]), -_LARGEST, _LARGEST)
    raw[:, _WORD : _WORD + dim] = rounded.astype(np.int8).view(np.uint8)
    return packed


def unpack(packed: F32, dim: int, rows: ReplicaRows) -> F32:
    """The vectors (n, dim) of packed rows."""
    if rows == "fp32":
        return packed
    raw = np.ascontiguousarray(packed).view(np.uint8).reshape(len(packed), _WORD * packed.shape[1])
    if rows == "fp16":
        halves: F32 = np.ascontiguousarray(raw[:, : 2 * dim]).view("<f2").astype(np.float32)
        return halves
    steps = np.ascontiguousarray(raw[:, :_WORD]).view("<f4")
    values: F32 = raw[:, _WORD : _WORD + dim].view(np.int8).astype(np.float32) * steps
    return values

"""The inverted index with what a walk scores its items by: their vectors in a byte a value, list by list.

Items' vectors lie in the order of rows, so that each of a walk's is somewhere else in memory. Their codes lie
in the order of the index, once for each path of an item, so that a walk reads on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numba import types
from numpy.typing import NDArray

from models.retrieval.codes import BLOCK, ITEM_MOST, coded
from models.retrieval.inverted import InvertedIndex
from runtime.compiled import F32 as FLOAT32
from runtime.compiled import VOID, made, taken
from runtime.compiled import fused_kernel as kernel
from runtime.prefetch import prefetch
from schema.records import F32

I8 = NDArray[np.int8]

_AHEAD: Final = 16


@dataclass(frozen=True, slots=True)
class Reranker:
    """The linear softmax that orders what a beam finds: score = user @ vectors[row] + bias[row].

    `vectors` f32 (rows, dim) and `bias` f32 (rows,), by the row of the item in the structure.
    """

    vectors: F32
    bias: F32


@dataclass(frozen=True, slots=True)
class Postings:
    """An index, the vectors of its items, and their codes in its order.

    `codes` i8 (assignments, width) are those of `index.members`, `width` is the vectors', filled up to whole
    blocks; `terms` f32 (assignments, 2) are [unit, bias]. Made by `of`.
    """

    index: InvertedIndex
    reranker: Reranker
    codes: I8
    terms: F32

    @classmethod
    def of(cls, index: InvertedIndex, reranker: Reranker) -> Postings:
        """The postings of `index` with the vectors of `reranker`.

        Raises:
            ValueError: the reranker has fewer rows than the index, or not as many biases as vectors.
        """
        vectors, bias = reranker.vectors, reranker.bias
        if len(vectors) < index.rows or bias.shape != vectors.shape[:1]:
            raise ValueError(
                f"reranker: vectors {vectors.shape}, bias {bias.shape}; legal are {index.rows} rows, or more"
            )
        width = -(-vectors.shape[1] // BLOCK) * BLOCK
        by_row, units = np.zeros((len(vectors), width), np.int8), np.empty(len(vectors), np.float32)
        _code_rows(vectors, by_row, units)
        codes = np.empty((len(index.members), width), np.int8)
        terms = np.empty((len(index.members), 2), np.float32)
        _arrange(index.members, by_row, units, bias, codes, terms)
        return cls(index, reranker, codes, terms)


_BYTES_IN, _BYTES = taken(types.int8, 2), made(types.int8, 2)
_MEMBERS = taken(types.int32, 1)
_IN1, _IN2, _OUT1, _OUT2 = taken(FLOAT32, 1), taken(FLOAT32, 2), made(FLOAT32, 1), made(FLOAT32, 2)


@kernel(VOID(_IN2, _BYTES, _OUT1))
def _code_rows(vectors: Any, codes: Any, units: Any) -> None:
    flat, into, dim, width = vectors.reshape(-1), codes.reshape(-1), vectors.shape[1], codes.shape[1]
    for row in range(np.uint64(vectors.shape[0])):
        start, at = row * np.uint64(dim), row * np.uint64(width)
        units[row] = coded(flat, start, np.uint64(dim), ITEM_MOST, into, at)


@kernel(VOID(_MEMBERS, _BYTES_IN, _OUT1, _IN1, _BYTES, _OUT2))
def _arrange(  # noqa: PLR0917 - a kernel takes as many arrays as it takes
    members: Any, by_row: Any, units: Any, bias: Any, codes: Any, terms: Any
) -> None:
    """Copy what is known of rows to where they are members."""
    flat, into, width = by_row.reshape(-1), codes.reshape(-1), np.int64(codes.shape[1])
    count = np.uint64(members.shape[0])
    for at in range(count):
        if at + np.uint64(_AHEAD) < count:
            prefetch(flat, members[at + np.uint64(_AHEAD)] * width)
        row = np.uint64(members[at])
        start, place = row * np.uint64(width), at * np.uint64(width)
        for d in range(np.uint64(width)):
            into[place + d] = flat[start + d]
        terms[at, 0], terms[at, 1] = units[row], bias[row]

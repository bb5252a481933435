"""The rows and removals of one round for one table, found by id: they hide a replica's rows that change.

Knows no table. Made of chunks in order, so that of several changes of an id the last counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parameter_server.delta import Chunk
from parameter_server.errors import DeltaError
from parameter_server.kernels import overlay as kernels
from schema.records import F32, I64, U64


class Overlay:
    """What `chunks` change.

    Attributes:
        ids: uint64 (n,), with an id once for each of its changes.
        vectors: float32 (m, width), packed: the rows of ids[i] at places[i], -1 for a removal.

    Raises:
        DeltaError: a chunk has an id twice among its rows.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        parts: list[U64] = []
        origins: list[I64] = []
        rows = 0
        for chunk in chunks:
            parts += [np.unique(chunk.removed), chunk.ids]
            origins += [np.full(len(parts[-2]), -1), np.arange(rows, rows + len(chunk.ids))]
            rows += len(chunk.ids)
        self.ids: U64 = _joined(parts, np.empty(0, np.uint64))
        self.origins: I64 = _joined(origins, np.empty(0, np.int64))
        vectors = [chunk.vectors for chunk in chunks if len(chunk.ids)]
        self.vectors: F32 = _joined(vectors, np.empty((0, 1), np.float32))
        cells = 1 << max(4, (2 * len(self.ids)).bit_length())
        self._heads = np.full(cells, -1, np.int64)
        self._enter(chunks, parts)

    def _enter(self, chunks: Sequence[Chunk], parts: Sequence[U64]) -> None:
        start = 0
        for number, part in enumerate(parts):
            twice = kernels.enter(self._heads, self.ids, start, start + len(part))
            if twice >= 0:
                sequence = chunks[number // 2].sequence
                raise DeltaError(f"delta: chunk {sequence} has an id twice: {self.ids[twice]}")
            start += len(part)

    def find(self, wanted: U64) -> I64:
        """The last change of each id of `wanted` (n,), as a place in `ids`; -1 where it has none."""
        found = np.empty(len(wanted), np.int64)
        kernels.places(self._heads, self.ids, wanted, found)
        return found

    def copy_into(self, target: F32, rows: I64) -> I64:
        """Write the last change of each id that has a row, at `rows` (n,), to that row of `target`.

        Returns the places in `ids` of the last changes that are left: those that add or remove a row.
        """
        rest = np.empty(len(self.ids), np.int64)
        if not len(self.vectors):
            self.vectors = np.empty((0, target.shape[1]), np.float32)
        count = kernels.copy_last(self._heads, self.ids, self.origins, self.vectors, rows, target, rest)
        return rest[:count]


def _joined(parts: Sequence[np.ndarray], nothing: np.ndarray) -> np.ndarray:
    """One array of all that is in `parts`, without a copy where that is one part."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return np.require(filled[0], nothing.dtype, ["C_CONTIGUOUS", "ALIGNED"])
    return np.concatenate(filled) if filled else nothing

"""The inverted index: which items lie on a path. One sorted copy of the assignments, built in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from runtime.compiled import I64 as INT64
from runtime.compiled import VOID, made, taken
from runtime.compiled import fused_kernel as kernel

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

_MATRIX = taken(types.int32, 2)


@kernel(VOID(_MATRIX, made(INT64, 1), made(types.int32, 1)))
def _fill(paths: Any, cursor: Any, members: Any) -> None:
    """Put every row where `cursor` of its path points; rows ascend within a path."""
    for row in range(paths.shape[0]):
        for j in range(paths.shape[1]):
            path = paths[row, j]
            if path >= 0:
                members[cursor[path]] = row
                cursor[path] += 1


@kernel(VOID(_MATRIX, INT64, made(INT64, 1)))
def count(paths: Any, by: Any, sizes: Any) -> None:
    """Add `by` to what `sizes` (paths,) says of each of `paths` i32 (rows, J), -1 for none."""
    for row in range(paths.shape[0]):
        for j in range(paths.shape[1]):
            if paths[row, j] >= 0:
                sizes[paths[row, j]] += by


@dataclass(frozen=True, slots=True)
class InvertedIndex:
    """`members[offsets[c]:offsets[c + 1]]` are the rows on path c, ascending.

    offsets i64 (paths + 1,), members i32 (assignments,); `rows` is above every member.
    """

    offsets: I64
    members: I32
    rows: int

    def on(self, path: int) -> I32:
        """The rows on `path`."""
        return self.members[self.offsets[path] : self.offsets[path + 1]]

    def sizes(self) -> I64:
        """How many items lie on each path, i64 (paths,)."""
        return np.diff(self.offsets)


def path_sizes(assignments: I32, paths: int) -> I64:
    """How many of `assignments` i32 (rows, J), -1 for none, are on each of `paths` paths."""
    sizes = np.zeros(paths, np.int64)
    count(np.ascontiguousarray(assignments), 1, sizes)
    return sizes


def build_index(assignments: I32, paths: int) -> InvertedIndex:
    """The index of `assignments` i32 (rows, J), path codes below `paths` or -1 for none.

    Raises:
        ValueError: a code is outside that range.
    """
    if assignments.size and not (assignments.min() >= -1 and assignments.max() < paths):
        raise ValueError(
            f"assignments: codes {assignments.min()} to {assignments.max()}; legal is -1 to {paths - 1}"
        )
    assignments = np.ascontiguousarray(assignments, np.int32)
    offsets = np.concatenate(([0], np.cumsum(path_sizes(assignments, paths))))
    members = np.empty(offsets[-1], np.int32)
    _fill(assignments, offsets[:-1].copy(), members)
    return InvertedIndex(offsets, members, len(assignments))

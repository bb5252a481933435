"""The structure's EM: decayed scores of (item, path), and the coordinate descent that places the items.

    score      s[v, c] <- eta s[v, c] + p(c | x)        for a pair (x, v), over x's beam and v's recorded
    paths M-step     max over the paths of  sum_v N_v log sum_j s[v, path_j(v)]  -  alpha sum_c |c|^4 / 4

(Gao et al., arXiv 2007.07203, section 3.) An item keeps its S best-scored paths. One that enters a full list
starts from the list's minimum, since what it had before it was dropped, or never entered, was at most that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from models.retrieval.beam import Beams
from models.retrieval.inverted import path_sizes
from runtime.compiled import BOOL, F32, F64, VOID, made, taken
from runtime.compiled import I64 as INT64
from runtime.compiled import fused_kernel as kernel

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Floats = NDArray[np.float32]

_PATHS, _SCORES = made(types.int32, 2), made(F32, 2)
_ROWS = taken(INT64, 1)
_BEAM, _PROBS = taken(types.int32, 1), taken(F32, 1)


@dataclass(slots=True)
class PathScores:
    """What the stream has said of `rows` items: their S best paths, by row of the structure.

    `paths` i32 (rows, S), -1 where nothing is recorded; `scores` f32 (rows, S), 0 there; `weights` f32
    (rows,), the decayed number of pairs N_v.
    """

    paths: I32
    scores: Floats
    weights: Floats

    @classmethod
    def empty(cls, rows: int, kept: int) -> PathScores:
        """No scores of `rows` items, with room for `kept` paths each."""
        return cls(
            np.full((rows, kept), -1, np.int32),
            np.zeros((rows, kept), np.float32),
            np.zeros(rows, np.float32),
        )

    def grow(self, rows: int) -> None:
        """Make room for `rows` items, the new ones without scores."""
        more = rows - len(self.weights)
        if more > 0:
            extra = PathScores.empty(more, self.paths.shape[1])
            self.paths = np.concatenate([self.paths, extra.paths])
            self.scores = np.concatenate([self.scores, extra.scores])
            self.weights = np.concatenate([self.weights, extra.weights])

    def forget(self, rows: I64) -> None:
        """Drop all that is known of `rows`: their items are gone, and others will take the rows."""
        self.paths[rows], self.scores[rows], self.weights[rows] = -1, 0, 0

    def update(self, items: I64, users: I64, beams: Beams, decay: float) -> None:
        """Count m pairs in order: items' rows i64 (m,), and the row in `beams` of each one's user, i64 (m,).

        Raises:
            ValueError: a row is outside the scores or the beams, or `decay` is not in (0, 1].
        """
        _check_rows("items", items, len(self.weights))
        _check_rows("users", users, len(beams.paths))
        if not 0 < decay <= 1:
            raise ValueError(f"decay: {decay}; legal is above 0, at most 1")
        if len(items) != len(users):
            raise ValueError(f"users: {len(users)} for {len(items)} items; legal is one each")
        probs = np.exp(beams.log_probs, dtype=np.float32)
        _update(items, users, beams.paths, probs, decay, self.paths, self.scores, self.weights)


def m_step(scores: PathScores, assignments: I32, paths: int, alpha: float, sweeps: int) -> I32:
    """New assignments i32 (rows, J), by `sweeps` passes of coordinate descent from `assignments`.

    In a pass each item in turn leaves its paths and chooses J distinct ones again, each the best given those
    chosen before. One that has fewer than J recorded keeps old ones in their stead; one without scores stays
    where it is.

    Raises:
        ValueError: there are not as many rows of scores as of assignments.
    """
    if len(scores.weights) != len(assignments):
        raise ValueError(
            f"assignments: {len(assignments)} rows; legal is {len(scores.weights)}, as the scores have"
        )
    placed = assignments.copy()
    sizes = path_sizes(placed, paths)
    for _ in range(sweeps):
        sweep(scores, alpha, sizes, placed)
    return placed


def sweep(scores: PathScores, alpha: float, sizes: I64, placed: I32) -> None:
    """One pass over the rows of `placed` i32 (rows, J), which it changes, as it does `sizes` i64 (paths,)."""
    _sweep(scores.paths, scores.scores, scores.weights, alpha, sizes, placed)


def penalty(sizes: I64, alpha: float) -> float:
    """What the structure's paths cost, alpha sum_c |c|^4 / 4."""
    return float(alpha * (sizes.astype(np.float64) ** 4).sum() / 4)


def _check_rows(name: str, rows: I64, count: int) -> None:
    if len(rows) and not (rows.min() >= 0 and rows.max() < count):
        raise ValueError(f"{name}: rows {rows.min()} to {rows.max()}; legal is 0 to {count - 1}")


@kernel(INT64(types.int32, INT64))
def _place(path: Any, mask: Any) -> Any:
    """Where the search for `path` starts in a hash table of `mask` + 1 places."""
    return (np.int64(path) * np.int64(0x9E3779B1) >> np.int64(15)) & mask


@kernel(VOID(_BEAM, made(types.int32, 1)))
def _fill(beam: Any, table: Any) -> None:
    """The hash table of a beam: its places by path."""
    mask = np.int64(table.shape[0] - 1)
    table[:] = -1
    for b in range(beam.shape[0]):
        at = _place(beam[b], mask)
        while table[at] >= 0:
            at = (at + 1) & mask
        table[at] = b


@kernel(VOID(_BEAM, _PROBS, F32, made(types.int32, 1), made(F32, 1), made(types.int32, 1), made(BOOL, 1)))
def _enter(  # noqa: PLR0917 - a kernel takes as many arrays as it takes
    beam: Any, probs: Any, decay: Any, paths: Any, scores: Any, table: Any, known: Any
) -> None:
    """One pair: the user's beam, whose hash table is `table`, into the item's list; `known` is scratch."""
    size, mask = paths.shape[0], np.int64(table.shape[0] - 1)
    start = np.float32(0.0)
    if paths[size - 1] >= 0:
        start = decay * scores.min()
    known[:] = False
    recorded = 0
    while recorded < size and paths[recorded] >= 0:
        at = _place(paths[recorded], mask)
        while table[at] >= 0 and beam[table[at]] != paths[recorded]:
            at = (at + 1) & mask
        scores[recorded] *= decay
        if table[at] >= 0:
            scores[recorded] += probs[table[at]]
            known[table[at]] = True
        recorded += 1
    lowest = scores.argmin()
    for b in range(beam.shape[0]):
        score = start + probs[b]
        if known[b] or (recorded == size and scores[lowest] >= score):
            continue
        at = lowest
        if recorded < size:
            at = recorded
            recorded += 1
        paths[at], scores[at] = beam[b], score
        if recorded == size:
            lowest = scores.argmin()


@kernel(
    VOID(_ROWS, _ROWS, taken(types.int32, 2), taken(F32, 2), F32, _PATHS, _SCORES, made(F32, 1)),
)
def _update(  # noqa: PLR0917 - a kernel takes as many arrays as it takes
    items: Any, users: Any, beams: Any, probs: Any, decay: Any, paths: Any, scores: Any, weights: Any
) -> None:
    width, places = beams.shape[1], 2
    while places < 2 * width:
        places *= 2
    table, known = np.empty(places, np.int32), np.empty(width, np.bool_)
    filled = np.int64(-1)
    for i in range(items.shape[0]):
        item, user = items[i], users[i]
        if user != filled:
            _fill(beams[user], table)
            filled = user
        _enter(beams[user], probs[user], decay, paths[item], scores[item], table, known)
        weights[item] = decay * weights[item] + np.float32(1.0)


@kernel(F64(F64, F32, F64, INT64, F64))
def _gain(weight: Any, score: Any, chosen: Any, size: Any, alpha: Any) -> Any:
    """What an item gains by a path of `size` items, beside paths of `chosen` score in all."""
    likelihood = np.log(np.float64(score) + chosen)
    if chosen > 0:
        likelihood -= np.log(chosen)
    fourth = np.float64(size + 1) ** 4 - np.float64(size) ** 4
    return weight * likelihood - alpha * fourth / 4


@kernel(INT64(taken(types.int32, 1), INT64, types.int32))
def _among(paths: Any, count: Any, path: Any) -> Any:
    for j in range(count):
        if paths[j] == path:
            return 1
    return 0


@kernel(types.int32(taken(types.int32, 1), taken(types.int32, 1), INT64))
def _spare(old: Any, placed: Any, count: Any) -> Any:
    """An old path that is not among the first `count` of the new ones, or -1."""
    for path in old:
        if path >= 0 and not _among(placed, count, path):
            return path
    return np.int32(-1)


@kernel(
    INT64(taken(types.int32, 1), taken(F32, 1), F64, F64, F64, made(INT64, 1), taken(types.int32, 1), INT64)
)
def _choice(  # noqa: PLR0917 - a kernel takes as many arrays as it takes
    paths: Any, scores: Any, weight: Any, chosen: Any, alpha: Any, sizes: Any, placed: Any, count: Any
) -> Any:
    """Which recorded path gains most beside the first `count` of `placed`, or -1."""
    best: Any = np.int64(-1)
    best_gain = -np.inf
    for s in range(paths.shape[0]):
        if paths[s] < 0 or scores[s] <= 0 or _among(placed, count, paths[s]):
            continue
        gain = _gain(weight, scores[s], chosen, sizes[paths[s]], alpha)
        if gain > best_gain:
            best, best_gain = s, gain
    return best


@kernel(VOID(taken(types.int32, 2), taken(F32, 2), taken(F32, 1), F64, made(INT64, 1), _PATHS))
def _sweep(  # noqa: PLR0917 - a kernel takes as many arrays as it takes
    paths: Any, scores: Any, weights: Any, alpha: Any, sizes: Any, placed: Any
) -> None:
    slots = placed.shape[1]
    old = np.empty(slots, np.int32)
    for v in range(placed.shape[0]):
        if paths[v, 0] < 0:
            continue
        for j in range(slots):
            old[j] = placed[v, j]
            if old[j] >= 0:
                sizes[old[j]] -= 1
        chosen = 0.0
        for j in range(slots):
            s = _choice(paths[v], scores[v], np.float64(weights[v]), chosen, alpha, sizes, placed[v], j)
            if s >= 0:
                placed[v, j] = paths[v, s]
                chosen += scores[v, s]
            else:
                placed[v, j] = _spare(old, placed[v], j)
            if placed[v, j] >= 0:
                sizes[placed[v, j]] += 1

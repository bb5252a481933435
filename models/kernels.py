"""Compiled loops: between the rows of ids and the bags that slots make of them, and over what is predicted.

A slot's bags lie in `index` (total,), one behind the other, the places of their ids among the rows; `starts`
(R,) has where each begins, and (0,) says that each bag has one id. Places are reckoned in uint64: numba lets
a signed index count from the end, which costs a choice an access.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import BOOL, F32, F64, I64, U64, VOID, inlined, made, taken
from runtime.compiled import fused_kernel as kernel

_INDEX: Final = taken(I64, 1)
_ONE: Final = np.uint64(1)
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = np.uint64(0xBF58476D1CE4E5B9)
_HALF: Final = np.uint64(32)
_LOGIT_LIMIT: Final = 16.0
_EPSILON: Final = 1e-7


@inlined
def _bounds(starts: Any, total: Any, bag: Any) -> Any:
    """Where bag `bag` begins and ends."""
    count = np.uint64(len(starts))
    if not count:
        return bag, bag + _ONE
    after = bag + _ONE
    return np.uint64(starts[bag]), np.uint64(starts[after]) if after < count else np.uint64(total)


@kernel(VOID(taken(F32, 2), _INDEX, _INDEX, BOOL, I64, made(F32, 3)))
def pool(rows: Any, index: Any, starts: Any, mean: Any, slot: Any, out: Any) -> None:
    """The sum, or mean, of each bag's rows (u, d) into out[:, slot], (R, S, d); zero for an empty bag."""
    width = np.uint64(rows.shape[1])
    flat, into = rows.reshape(-1), out.reshape(-1)
    for bag in range(np.uint64(out.shape[0])):
        here = (bag * np.uint64(out.shape[1]) + np.uint64(slot)) * width
        first, end = _bounds(starts, len(index), bag)
        for j in range(width):
            into[here + j] = np.float32(0.0)
        for i in range(first, end):
            place = np.uint64(index[i]) * width
            for j in range(width):
                into[here + j] += flat[place + j]
        if mean and end > first + _ONE:
            share = np.float32(1.0) / np.float32(end - first)
            for j in range(width):
                into[here + j] *= share


@kernel(VOID(taken(F32, 3), _INDEX, _INDEX, BOOL, I64, made(F32, 2)))
def spread(gradient: Any, index: Any, starts: Any, mean: Any, slot: Any, rows: Any) -> None:
    """Add to `rows` (u, d), in order, what `pool` hands back of its output's gradient[:, slot], (R, S, d)."""
    width = np.uint64(rows.shape[1])
    flat, given = rows.reshape(-1), gradient.reshape(-1)
    for bag in range(np.uint64(gradient.shape[0])):
        here = (bag * np.uint64(gradient.shape[1]) + np.uint64(slot)) * width
        first, end = _bounds(starts, len(index), bag)
        share = np.float32(1.0) / np.float32(end - first) if mean and end > first else np.float32(1.0)
        for i in range(first, end):
            place = np.uint64(index[i]) * width
            for j in range(width):
                flat[place + j] += given[here + j] * share


@kernel(VOID(taken(I64, 1), taken(U64, 1), made(I64, 1), made(U64, 1)))
def arrange(places: Any, found: Any, index: Any, out: Any) -> None:
    """Number distinct ids anew, so that those of one place lie side by side, in the order that they had.

    Args:
        places: (u,): where each id is, from 0.
        found: (u,): the id of each number.
        index: in and out (n,): numbers.
        out: out (u,): the id of each new number.
    """
    starts = np.zeros(places.max() + 2 if len(places) else 1, np.int64)
    for number in range(len(places)):
        starts[places[number] + 1] += 1
    for place in range(1, len(starts)):
        starts[place] += starts[place - 1]
    after = np.empty(len(places), np.int64)
    for number in range(len(places)):
        after[number] = starts[places[number]]
        out[after[number]] = found[number]
        starts[places[number]] += 1
    for i in range(len(index)):
        index[i] = after[index[i]]


@inlined
def _hashed(wanted: Any) -> Any:
    mixed = wanted * _GOLDEN
    return ((mixed ^ (mixed >> _HALF)) * _MIX) >> _HALF


@kernel(I64(taken(U64, 1), made(I64, 1), made(U64, 1)))
def distinct(ids: Any, index: Any, found: Any) -> Any:
    """Number the distinct ids in the order of their first occurrence; how many there are.

    Args:
        ids: (n,).
        index: out (n,): the number of each.
        found: out (n,): the id of each number.
    """
    size = 16
    while size < len(ids) + len(ids) // 2:
        size *= 2
    mask = np.uint64(size - 1)
    cells = np.full(size, np.int32(-1), np.int32)  # open addressing with linear probing
    count = np.uint64(0)
    for i in range(np.uint64(len(ids))):
        wanted = ids[i]
        cell = _hashed(wanted) & mask
        while cells[cell] >= 0 and found[np.uint64(cells[cell])] != wanted:
            cell = (cell + _ONE) & mask
        if cells[cell] < 0:
            cells[cell] = np.int32(count)
            found[count] = wanted
            count += _ONE
        index[i] = np.int64(cells[cell])
    return np.int64(count)


@kernel(
    BOOL(
        taken(F64, 2),
        taken(F64, 2),
        taken(F64, 2),
        taken(F64, 1),
        made(F64, 2),
        made(F64, 2),
        made(F64, 1),
        made(F64, 1),
    )
)
def tally(
    predictions: Any,
    labels: Any,
    mask: Any,
    weights: Any,
    positives: Any,
    negatives: Any,
    predicted: Any,
    log_loss: Any,
) -> Any:
    """Count predictions as `models.metrics.TaskMetrics` does; False, with nothing counted, if one is none.

    Args:
        predictions: (n, T), as the two that follow; each counts where `mask` is above 0.
        labels: see above.
        mask: see above.
        weights: (n,), what each row counts for.
        positives: in and out (T, bins), as the next.
        negatives: see above.
        predicted: in and out (T,), as the next.
        log_loss: see above.
    """
    rows, tasks = predictions.shape
    bins = positives.shape[1]
    for row in range(rows):
        for task in range(tasks):
            if mask[row, task] > 0 and not 0 <= predictions[row, task] <= 1:
                return False
    for row in range(rows):
        w = weights[row]
        for task in range(tasks):
            if mask[row, task] > 0:
                y = labels[row, task]
                p = min(max(predictions[row, task], _EPSILON), 1 - _EPSILON)
                log_p, log_q = np.log(p), np.log1p(-p)
                place = np.int64((log_p - log_q + _LOGIT_LIMIT) * (bins / (2 * _LOGIT_LIMIT)))
                place = min(max(place, np.int64(0)), bins - 1)
                positives[task, place] += w * y
                negatives[task, place] += w * (1 - y)
                predicted[task] += w * p
                log_loss[task] -= w * (y * log_p + (1 - y) * log_q)
    return True

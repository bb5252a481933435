"""The compiled walk over the columns of a block's slots."""

# ruff: noqa: C901, PLR0917, PLR0911, PLR2004 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I64, U8, kernel, made, taken
from trainer.columns import layout as at_
from trainer.columns.memory import u16_at
from trainer.columns.tokens import ARRAY, BYTES, INTEGER, token

_BYTES: Final = taken(U8, 1)


@kernel(I64(_BYTES, I64, I64, I64, taken(I64, 1), I64, I64, made(I64, 2)), allocates=False)
def _column(data: Any, at: Any, end: Any, rows: Any, numbers: Any, first: Any, last: Any, slots: Any) -> Any:
    """Read a slot's column of `rows` rows; what follows it, or -1 where it is not one.

    It is noted in `slots` (S, SLOT_FIELDS) if it is the first of its slot, and among numbers[first:last].
    """
    kind, count, _, at = token(data, at, end)
    if kind != ARRAY or count < 2 or count > 3:
        return -1
    kind, slot, _, at = token(data, at, end)
    if kind != INTEGER:
        return -1
    kind, size, ids, at = token(data, at, end)
    if kind != BYTES:
        return -1
    bytes_of_lengths, lengths = np.int64(0), np.int64(0)
    if count == 3:
        kind, bytes_of_lengths, lengths, at = token(data, at, end)
        if kind != BYTES:
            return -1
    wanted = rows
    if bytes_of_lengths:
        if bytes_of_lengths != 2 * rows:
            return -1
        wanted = np.int64(0)
        for row in range(rows):
            wanted += np.int64(u16_at(data, lengths + 2 * row))
    if size != 8 * wanted:
        return -1
    for s in range(first, last):
        if numbers[s] == slot:
            if slots[s, at_.SLOT_KIND] == at_.ABSENT:
                slots[s, at_.SLOT_AT_IDS] = ids
                slots[s, at_.SLOT_AT_LENGTHS] = lengths
                slots[s, at_.SLOT_IDS] = wanted
                slots[s, at_.SLOT_KIND] = at_.RAGGED if bytes_of_lengths else at_.SINGLE
            break
    return at


@kernel(I64(_BYTES, I64, I64, I64, taken(I64, 1), I64, I64, made(I64, 2)), allocates=False)
def columns(data: Any, at: Any, end: Any, rows: Any, numbers: Any, first: Any, last: Any, slots: Any) -> Any:
    """As `_column`, an array of them."""
    kind, count, _, at = token(data, at, end)
    if kind != ARRAY:
        return -1
    for _ in range(count):
        at = _column(data, at, end, rows, numbers, first, last, slots)
        if at < 0:
            return -1
    return at

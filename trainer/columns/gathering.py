"""Compiled copies out of the bytes of blocks: the columns of their rows, and the ids of their slots.

Here the blocks are known to be sound.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import BOOL, F32, I64, U8, U64, VOID, kernel, made, taken
from trainer.columns import layout as at_
from trainer.columns.memory import f32_at, u16_at, u64_at

_BYTES: Final = taken(U8, 1)
_TABLE: Final = taken(I64, 2)


@kernel(
    VOID(
        _BYTES,
        _TABLE,
        made(I64, 1),
        made(I64, 1),
        made(I64, 1),
        made(F32, 2),
        made(F32, 2),
        made(F32, 1),
        made(F32, 2),
        made(F32, 2),
    ),
    allocates=False,
)
def rows(
    data: Any,
    table: Any,
    owners: Any,
    items: Any,
    positions: Any,
    labels: Any,
    mask: Any,
    log_keep: Any,
    retract: Any,
    dense: Any,
) -> None:
    """The columns of all n rows of the blocks in `table` (b, FIELDS).

    Args:
        data: the bytes that `table` speaks of.
        table: the blocks.
        owners: out (n,): which block each row is of.
        items: out (n,).
        positions: out (n,).
        labels: out (n, T), within 0 to 1; 0 for what is not a number.
        mask: out (n, T), 0 or 1.
        log_keep: out (n,).
        retract: out (n, T), as the block has it; 0 where it has none.
        dense: out (n, d).
    """
    tasks, width, row = labels.shape[1], dense.shape[1], 0
    for number in range(len(table)):
        block = table[number]
        for i in range(block[at_.ROWS]):
            owners[row] = number
            items[row] = np.int64(u64_at(data, block[at_.AT_ITEMS] + 8 * i))
            positions[row] = np.int64(u16_at(data, block[at_.AT_POSITIONS] + 2 * i))
            log_keep[row] = f32_at(data, block[at_.AT_LOG_KEEP] + 4 * i)
            for k in range(tasks):
                pair = i * tasks + k
                label = f32_at(data, block[at_.AT_LABELS] + 4 * pair)
                labels[row, k] = min(label, np.float32(1)) if label > 0 else np.float32(0)
                mask[row, k] = np.float32(data[block[at_.AT_MASK] + pair] != 0)
                taken_back = data[block[at_.AT_RETRACT] + pair] if block[at_.RETRACTS] else np.uint8(0)
                retract[row, k] = np.float32(taken_back)
            for j in range(width):
                dense[row, j] = f32_at(data, block[at_.AT_ITEM_DENSE] + 4 * (i * width + j))
            row += 1


@kernel(VOID(_BYTES, _TABLE, made(F32, 1)), allocates=False)
def propensities(data: Any, table: Any, odds: Any) -> None:
    """With what odds each row of the blocks was shown (n,), 0 where a block does not say."""
    row = 0
    for number in range(len(table)):
        block = table[number]
        for i in range(block[at_.ROWS]):
            known = block[at_.PROPENSITIES] != 0
            odds[row] = f32_at(data, block[at_.AT_PROPENSITIES] + 4 * i) if known else np.float32(0)
            row += 1


@kernel(VOID(_BYTES, _TABLE, made(F32, 2)), allocates=False)
def context(data: Any, table: Any, dense: Any) -> None:
    """The dense values (b, c) of the blocks' requests."""
    for number in range(len(table)):
        for j in range(dense.shape[1]):
            dense[number, j] = f32_at(data, table[number, at_.AT_CONTEXT_DENSE] + 4 * j)


@kernel(
    VOID(_BYTES, _TABLE, taken(I64, 3), I64, BOOL, I64, made(U64, 1), made(I64, 1)),
    allocates=False,
)
def slot(
    data: Any, table: Any, slots: Any, number: Any, one_row: Any, start: Any, ids: Any, lengths: Any
) -> None:
    """The ids of one slot of the blocks, and how many each row has.

    Args:
        data: the bytes that `table` and `slots` speak of.
        table: the blocks (b, FIELDS).
        slots: their slots (b, S, SLOT_FIELDS).
        number: which of the S.
        one_row: whether it has one row a block, as context has, or one for each of the block's rows.
        start: where in `ids` they begin.
        ids: out, all ids.
        lengths: out (rows,).
    """
    row, into = 0, start
    for b in range(len(table)):
        rows = np.int64(1) if one_row else table[b, at_.ROWS]
        at, kind = slots[b, number, at_.SLOT_AT_IDS], slots[b, number, at_.SLOT_KIND]
        for i in range(slots[b, number, at_.SLOT_IDS]):
            ids[into + i] = u64_at(data, at + 8 * i)
        into += slots[b, number, at_.SLOT_IDS]
        for i in range(rows):
            if kind == at_.RAGGED:
                length = np.int64(u16_at(data, slots[b, number, at_.SLOT_AT_LENGTHS] + 2 * i))
            else:
                length = np.int64(kind == at_.SINGLE)
            lengths[row] = length
            row += 1

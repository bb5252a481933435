"""Compiled walks: over the MessagePack of sample blocks, as far as it is as the codec writes it.

Whatever is not, for whatever reason, is left to the codec, which can say what is wrong. The walk checks all
that `SampleBlock.problem` and the trainer's reader check, so that nothing else has to doubt what it found.
"""

# ruff: noqa: PLR0917, PLR0911, SIM110 - a kernel takes as many arrays as it takes, and knows no all()
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from runtime.compiled import BOOL, I64, U8, kernel, made, taken
from trainer.columns import layout as at_
from trainer.columns.checks import values_fit
from trainer.columns.slots import columns
from trainer.columns.tokens import ARRAY, BYTES, INTEGER, TEXT, token

_TAG: Final = 4
_LEAST_FIELDS: Final = 16
_MOST_FIELDS: Final = 20
_LEAST_BYTES: Final = 16
"""Of a block: one for each field."""
_MILLIS: Final = 1 << 53
_TUPLE: Final[Any] = types.UniTuple
_PAIR: Final = _TUPLE(I64, 2)
_TRIPLE: Final = _TUPLE(I64, 3)
_BYTES: Final = taken(U8, 1)


@kernel(BOOL(_BYTES, I64, I64), allocates=False)
def _plain(data: Any, at: Any, size: Any) -> Any:
    """Whether text is ASCII."""
    for i in range(size):
        if data[at + i] >= 0x80:
            return False
    return True


@kernel(_PAIR(_BYTES, I64, I64, I64), allocates=False)
def _sized(data: Any, at: Any, end: Any, size: Any) -> Any:
    """Where bytes of this size begin, and what follows them; -1 twice where there are no such bytes."""
    kind, have, place, after = token(data, at, end)
    if kind != BYTES or have != size:
        return -1, -1
    return place, after


@kernel(_TRIPLE(_BYTES, I64, I64, I64), allocates=False)
def _sized_or_none(data: Any, at: Any, end: Any, size: Any) -> Any:
    """Whether there are bytes, which are of this size then, and as `_sized` has it."""
    kind, have, place, after = token(data, at, end)
    if kind != BYTES or have not in (0, size):
        return 0, -1, -1
    return np.int64(have > 0), place, after


@kernel(
    I64(_BYTES, I64, I64, taken(I64, 1), I64, taken(U8, 1), I64, I64, I64, BOOL, made(I64, 1), made(I64, 2)),
    allocates=False,
)
def _block(
    data: Any,
    at: Any,
    end: Any,
    numbers: Any,
    contexts: Any,
    task_names: Any,
    tasks: Any,
    context_dense: Any,
    item_dense: Any,
    any_text: Any,
    block: Any,
    slots: Any,
) -> Any:
    """Read a block into `block` (FIELDS,) and `slots` (S, SLOT_FIELDS); what follows it, or -1."""
    block[at_.AT_BLOCK], block[at_.MESSAGE] = at, 0
    kind, fields, _, at = token(data, at, end)
    if kind != ARRAY or fields < _LEAST_FIELDS or fields > _MOST_FIELDS:
        return -1
    kind, tag, _, at = token(data, at, end)
    if kind != INTEGER or tag != _TAG:
        return -1
    kind, count, _, at = token(data, at, end)
    if kind != ARRAY or count < 2 or count > 3:
        return -1
    block[at_.INDEX] = 0
    for field in range(at_.PARTITION, at_.PARTITION + count):
        kind, block[field], _, at = token(data, at, end)
        if kind != INTEGER:
            return -1
    for field in range(at_.RESOLVED_BELOW, at_.COMPLETED_AT + 1):
        kind, block[field], _, at = token(data, at, end)
        if kind != INTEGER:
            return -1
    kind, size, place, at = token(data, at, end)
    if kind != TEXT or not (any_text or _plain(data, place, size)):
        return -1
    block[at_.REQUEST_ID_SIZE], block[at_.AT_REQUEST_ID] = size, place
    for field in range(at_.USER, at_.SURFACE + 1):
        kind, block[field], _, at = token(data, at, end)
        if kind != INTEGER:
            return -1
    if block[at_.USER] < 0 or not 0 <= block[at_.COMPLETED_AT] < _MILLIS:
        return -1
    if not 0 <= block[at_.EVENT_TIME] < _MILLIS or len(task_names) > end - at:
        return -1
    for i in range(len(task_names)):
        if data[at + i] != task_names[i]:
            return -1
    at += len(task_names)
    kind, size, block[at_.AT_ROWS], at = token(data, at, end)
    rows = size // 2
    if kind != BYTES or rows == 0 or size % 2:
        return -1
    block[at_.ROWS] = rows
    block[at_.AT_ITEMS], at = _sized(data, at, end, 8 * rows)
    if at < 0:
        return -1
    block[at_.AT_POSITIONS], at = _sized(data, at, end, 2 * rows)
    if at < 0:
        return -1
    kind, count, _, at = token(data, at, end)
    if kind != ARRAY or count != 4:
        return -1
    at = columns(data, at, end, 1, numbers, 0, contexts, slots)
    if at < 0:
        return -1
    at = columns(data, at, end, rows, numbers, contexts, len(numbers), slots)
    if at < 0:
        return -1
    block[at_.AT_CONTEXT_DENSE], at = _sized(data, at, end, 4 * context_dense)
    if at < 0:
        return -1
    block[at_.AT_ITEM_DENSE], at = _sized(data, at, end, 4 * item_dense * rows)
    if at < 0:
        return -1
    block[at_.AT_LABELS], at = _sized(data, at, end, 4 * tasks * rows)
    if at < 0:
        return -1
    block[at_.AT_MASK], at = _sized(data, at, end, tasks * rows)
    if at < 0:
        return -1
    block[at_.AT_LOG_KEEP], at = _sized(data, at, end, 4 * rows)
    if at < 0:
        return -1
    if fields > _LEAST_FIELDS:
        kind, _, _, at = token(data, at, end)
        if kind != BYTES:
            return -1
    block[at_.RETRACTS], block[at_.AT_RETRACT] = 0, 0
    if fields > _LEAST_FIELDS + 1:
        block[at_.RETRACTS], block[at_.AT_RETRACT], at = _sized_or_none(data, at, end, tasks * rows)
        if at < 0:
            return -1
    block[at_.LATE_OFFSET] = -1
    if fields > _LEAST_FIELDS + 2:
        kind, block[at_.LATE_OFFSET], _, at = token(data, at, end)
        if kind != INTEGER:
            return -1
    block[at_.PROPENSITIES], block[at_.AT_PROPENSITIES] = 0, 0
    if fields == _MOST_FIELDS:
        block[at_.PROPENSITIES], block[at_.AT_PROPENSITIES], at = _sized_or_none(data, at, end, 4 * rows)
        if at < 0:
            return -1
    block[at_.AT_END], block[at_.JOINED_AT] = at, block[at_.COMPLETED_AT]
    return at if values_fit(data, block, tasks, context_dense, item_dense) else -1


@kernel(I64(_BYTES, taken(I64, 1)), allocates=False)
def promised(data: Any, bounds: Any) -> Any:
    """How many blocks messages say that they have, those that could be true; bounds (m + 1,) are theirs."""
    total = np.int64(0)
    for message in range(len(bounds) - 1):
        kind, count, _, _ = token(data, bounds[message], bounds[message + 1])
        if kind == ARRAY and count * _LEAST_BYTES <= bounds[message + 1] - bounds[message]:
            total += count
    return total


@kernel(
    I64(
        _BYTES,
        taken(I64, 1),
        taken(I64, 1),
        I64,
        taken(U8, 1),
        I64,
        I64,
        I64,
        BOOL,
        made(I64, 2),
        made(I64, 3),
        made(I64, 1),
    ),
    allocates=False,
)
def walk(
    data: Any,
    bounds: Any,
    numbers: Any,
    contexts: Any,
    task_names: Any,
    tasks: Any,
    context_dense: Any,
    item_dense: Any,
    any_text: Any,
    table: Any,
    slots: Any,
    counts: Any,
) -> Any:
    """Read the blocks of messages; how many there are.

    Args:
        data: the bodies of all messages.
        bounds: (m + 1,): the i-th message lies from bounds[i] to bounds[i + 1].
        numbers: see `layout.Form`, as the five that follow.
        contexts: the same.
        task_names: the same.
        tasks: the same.
        context_dense: the same.
        item_dense: the same.
        any_text: whether texts that are not ASCII are known to be sound.
        table: out (b, FIELDS), for at least as many blocks as are `promised`.
        slots: out (b, S, SLOT_FIELDS), all zero.
        counts: out (m,): the blocks of each message, -1 where it was not understood.
    """
    found = np.int64(0)
    for message in range(len(bounds) - 1):
        at, end, first = bounds[message], bounds[message + 1], found
        counts[message] = -1
        kind, count, _, at = token(data, at, end)
        if kind != ARRAY or count * _LEAST_BYTES > end - bounds[message]:
            continue
        for _ in range(count):
            at = _block(
                data,
                at,
                end,
                numbers,
                contexts,
                task_names,
                tasks,
                context_dense,
                item_dense,
                any_text,
                table[found],
                slots[found],
            )
            if at < 0:
                break
            table[found, at_.WITHIN], table[found, at_.LAST] = found - first, found - first == count - 1
            found += 1
        if at == end:
            counts[message] = count
        else:
            slots[first : found + 1] = 0
            found = first
    return found

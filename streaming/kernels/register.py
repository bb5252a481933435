"""Requests that lie in the table alone: from the bytes of their feature logs to what is kept of them.

`due` (d, 2) i8 is a binary heap of (end of window, ticket) with the slot of each in `due_slots` (d,); `size`
(1,) is how many there are. One whose slot has another ticket by now is no more.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I64, U8, U64, VOID, inlined, kernel, made, taken
from runtime.prefetch import prefetch
from streaming.kernels import logs as found
from streaming.kernels import table
from streaming.kernels.wire import put_binary, put_bytes, put_number

OFFSET: Final = 0
WINDOW: Final = 1
REACH: Final = 2
TICKET: Final = 3
FACTS: Final = 4
"""Of a message: its offset; how long requests stay open and for how long actions count, ms from their time;
and the ticket of its first record."""

SLOT: Final = 0
CLOSED_OFFSET: Final = 1
CLOSED_ROWS: Final = 2
END: Final = 3
CLOSED_NTH: Final = 4
CLOSED: Final = 5
"""Of requests that close: their slots, the offsets of their logs, their rows, when their windows ended, and
the places of their logs in their messages."""

KEY_END: Final = 0
HEAD_END: Final = 1
SETTLED: Final = 2
"""Of a request that is put away, in what was written: where its key ends, and its state, but for its log."""

GONE_OFFSET: Final = 0
GONE: Final = 1
GONE_LAST: Final = 2
RUN: Final = 3
"""Of requests of one message that are put away: its offset, how many they are, and the latest of the offsets
of their last actions."""

STATE_KEY: Final = ord("s")
"""What the key begins with, before the id."""

STATE_BYTES: Final = 64
"""A state takes at most so many bytes beside those of its two sets and its log."""

_DUE: Final = (made(I64, 2), made(I64, 1), made(I64, 1))
_ONE: Final = np.uint64(1)
_EIGHT: Final = np.uint64(8)
_THREE: Final = np.uint64(3)
_SEVEN: Final = np.uint64(7)
_BYTE: Final = np.uint64(0xFF)
_STATE: Final = 0x97
_FLOAT: Final = 0xCB


@inlined
def _before(due: Any, one: Any, other: Any) -> Any:
    return due[one, 0] < due[other, 0] or (due[one, 0] == due[other, 0] and due[one, 1] < due[other, 1])


@inlined
def _swap(due: Any, due_slots: Any, one: Any, other: Any) -> None:
    end, ticket, slot = due[one, 0], due[one, 1], due_slots[one]
    due[one, 0], due[one, 1], due_slots[one] = due[other, 0], due[other, 1], due_slots[other]
    due[other, 0], due[other, 1], due_slots[other] = end, ticket, slot


@inlined
def _push(due: Any, due_slots: Any, size: Any, end: Any, ticket: Any, slot: Any) -> None:
    at = np.uint64(size[0])
    due[at, 0], due[at, 1], due_slots[at] = end, ticket, slot
    size[0] += 1
    while at and _before(due, at, (at - _ONE) >> _ONE):
        _swap(due, due_slots, at, (at - _ONE) >> _ONE)
        at = (at - _ONE) >> _ONE


@inlined
def _drop_first(due: Any, due_slots: Any, size: Any) -> None:
    size[0] -= 1
    count, at = np.uint64(size[0]), np.uint64(0)
    due[0, 0], due[0, 1], due_slots[0] = due[count, 0], due[count, 1], due_slots[count]
    child = _ONE
    while child < count:
        if child + _ONE < count and _before(due, child + _ONE, child):
            child += _ONE
        if not _before(due, child, at):
            break
        _swap(due, due_slots, at, child)
        at, child = child, (child << _ONE) + _ONE


@kernel(
    I64(
        taken(U8, 1), taken(I64, 2), taken(I64, 1), made(U8, 1), taken(I64, 1), *_DUE, *table.PARTS[:5]
    ),
    allocates=False,
)  # fmt: skip
def enter(
    body: Any, logs: Any, facts: Any, wanted: Any, free: Any, due: Any, due_slots: Any, size: Any,
    index: Any, slots: Any, ids: Any, items: Any, hits: Any,
) -> Any:  # fmt: skip
    """Put feature logs of a message into the slots `free` (n,), as many of these as are needed.

    `logs` (n, PARTS) are what `logs.parse` found in `body`; all fit into the table. `facts` are (FACTS,).
    `wanted` (n,) says which to put: not any more heartbeats, those whose id is there already, and those whose
    window is apart from that of the first. `due` has room for n more.

    Returns:
        How many were put.
    """
    count, first = np.uint64(0), np.int64(-1)
    for k in range(np.uint64(len(logs))):
        log = logs[k]
        rows, slot = np.uint64(log[found.ROWS]), np.uint64(free[count])
        if rows and first < 0:
            first = log[found.TIME]
        until = log[found.TIME] + facts[REACH]
        start, length = np.uint64(log[found.ID_AT]), np.uint64(log[found.ID_SIZE])
        if rows and wanted[k] and abs(log[found.TIME] - first) <= facts[WINDOW]:
            wanted[k] = table.put_in(body, start, length, slot, rows, until, index, slots, ids, hits)
        else:
            wanted[k] = 0
        if wanted[k]:
            ticket = facts[TICKET] + np.int64(k)
            slots[slot, table.TICKET], slots[slot, table.TIME] = ticket, log[found.TIME]
            slots[slot, table.START] = log[found.START]
            slots[slot, table.LOG_SIZE] = log[found.END] - log[found.START]
            slots[slot, table.OFFSET], slots[slot, table.NTH] = facts[OFFSET], k
            for row in range(rows):
                at, item = np.uint64(log[found.ITEMS]) + row * _EIGHT, np.uint64(0)
                for i in range(_EIGHT):
                    item |= np.uint64(body[at + i]) << i * _EIGHT
                items[slot, row] = np.int64(item)
            _push(due, due_slots, size, log[found.TIME] + facts[WINDOW], ticket, slot)
            count += _ONE
    return np.int64(count)


@kernel(I64(I64, I64, I64, *_DUE, made(I64, 2), made(I64, 2)), allocates=False)
def close(
    watermark: Any,
    resolved: Any,
    completed: Any,
    due: Any,
    due_slots: Any,
    size: Any,
    slots: Any,
    closed: Any,
) -> Any:
    """Close the requests whose windows ended before `watermark`, in order, into `closed` (CLOSED, k).

    No action counts for them any more. `closed` has room for all there are.

    Returns:
        How many there were.
    """
    count = np.uint64(0)
    while size[0] and due[0, 0] < watermark:
        slot = np.uint64(due_slots[0])
        facts = slots[slot]
        if facts[table.TICKET] == due[0, 1]:
            facts[table.UNTIL] = -1
            facts[table.RESOLVED], facts[table.COMPLETED] = resolved, completed
            closed[SLOT, count], closed[CLOSED_OFFSET, count] = slot, facts[table.OFFSET]
            closed[CLOSED_ROWS, count], closed[END, count] = facts[table.ROWS], due[0, 0]
            closed[CLOSED_NTH, count] = facts[table.NTH]
            count += _ONE
        _drop_first(due, due_slots, size)
    return np.int64(count)


@inlined
def _byte(words: Any, slot: Any, i: Any) -> Any:
    return words[slot, i >> _THREE] >> ((i & _SEVEN) << _THREE) & _BYTE


@inlined
def _put_set(out: Any, at: Any, words: Any, slot: Any, cells: Any, every: Any) -> Any:
    """A set of pairs, as short as may be: the first `cells` if it is `every`, else those in `words`."""
    size = (cells + _SEVEN) >> _THREE
    if not every:
        while size and not _byte(words, slot, size - _ONE):
            size -= _ONE
    at = put_binary(out, at, size)
    for i in range(size):
        left = cells - (i << _THREE)
        whole = _BYTE if left >= _EIGHT else (_ONE << left) - _ONE
        out[at + i] = whole if every else _byte(words, slot, i)
    return at + size


@inlined
def _put_state(out: Any, at: Any, facts: Any, hits: Any, slot: Any, cells: Any) -> Any:
    """A `request.State` as MessagePack, of which every pair was spoken for, up to the bytes of its log."""
    out[at] = _STATE
    at = put_number(out, at + _ONE, facts[table.OFFSET])
    at = put_number(out, at, facts[table.NTH])
    at = put_number(out, at, facts[table.TIME])
    out[at] = _FLOAT
    for i in range(_ONE, _ONE + _EIGHT):
        out[at + i] = 0
    at = _put_set(out, at + _ONE + _EIGHT, hits, slot, cells, False)
    at = _put_set(out, at, hits, slot, cells, True)
    return put_binary(out, at, np.uint64(facts[table.LOG_SIZE]))


@kernel(
    VOID(
        taken(I64, 1), U64, *table.PARTS[:3], *table.PARTS[4:], made(I64, 1), made(U8, 1), made(I64, 2),
        made(I64, 2), made(I64, 1), made(I64, 1),
    ),
    allocates=False,
)  # fmt: skip
def settle(
    chosen: Any, tasks: Any, index: Any, slots: Any, ids: Any, hits: Any, owed: Any, spare: Any, out: Any,
    said: Any, runs: Any, offsets: Any, counts: Any,
) -> None:  # fmt: skip
    """Take the requests in the slots `chosen` (k,), whose every pair was spoken for, out of the table.

    `out` takes the key of each and its state, one behind the other, and is large enough; `said` (k, SETTLED)
    says where they end. `runs` (k, RUN) are those of one message that follow each other. `spare` and
    `offsets` are as for `table.leave`. `counts` (2,): the runs and offsets.
    """
    at, owes, run = np.uint64(0), np.uint64(0), np.int64(-1)
    for k in range(np.uint64(len(chosen))):
        prefetch(slots, chosen[k] * table.COLUMNS)
        prefetch(ids, chosen[k] * table.ID_BYTES)
        prefetch(hits, chosen[k] * hits.shape[1])
    for k in range(np.uint64(len(chosen))):
        slot = np.uint64(chosen[k])
        facts = slots[slot]
        table.clear(slot, index, slots)
        size = np.uint64(facts[table.SIZE])
        out[at] = STATE_KEY
        at = put_bytes(out, at + _ONE, ids, slot * np.uint64(table.ID_BYTES), size)
        said[k, KEY_END] = at
        at = _put_state(out, at, facts, hits, slot, np.uint64(facts[table.ROWS]) * tasks)
        said[k, HEAD_END] = at
        if run < 0 or runs[np.uint64(run), GONE_OFFSET] != facts[table.OFFSET]:
            run += 1
            runs[np.uint64(run), GONE_OFFSET] = facts[table.OFFSET]
            runs[np.uint64(run), GONE], runs[np.uint64(run), GONE_LAST] = 0, -1
        runs[np.uint64(run), GONE] += 1
        runs[np.uint64(run), GONE_LAST] = max(runs[np.uint64(run), GONE_LAST], facts[table.LAST])
        facts[table.TICKET] = 0
        owes = table.unchain(slot, owes, slots, owed, spare, offsets)
    counts[0], counts[1] = run + 1, owes

"""A message of actions: its records read, and matched with the requests that gather.

`table` says what requests lie in: `index`, `slots`, `ids`, `items`, `hits` and `owed`.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import BOOL, I64, U8, VOID, inlined, kernel, made, taken
from runtime.prefetch import GROUP, prefetch
from streaming.kernels.table import CHAIN, COLUMNS, ID_BYTES, LAST, OWES, PARTS, ROWS, UNTIL, place_of
from streaming.kernels.wire import BAD, BEAT, MILLIS, array, hash_of, number, real, same, text

START: Final = 0
END: Final = 1
USER: Final = 2
POSITION: Final = 3
ID_AT: Final = 4
ID_SIZE: Final = 5
ITEM: Final = 6
BITS: Final = 7
TIME: Final = 8
HASHED: Final = 9
FIELDS: Final = 10
"""Of an action: where it lies in the body, its user and the place of its record, where its request id lies,
the item, the tasks that it makes positive, its event time, and the hash of its request id."""

LEAST_BYTES: Final = 14
"""An action takes at least as many bytes."""

COUNT: Final = 0
NEWEST: Final = 1
DOUBLED: Final = 2
IGNORED: Final = 3
ODD: Final = 4
BEATS: Final = 5
WORD: Final = 6
FREE: Final = 7
TOTALS: Final = 8
"""Of a message: how many actions; the latest event time, -1 without any; how many that need nothing more are
doubles, or of an unused kind; how many are left to the caller; heartbeats, and the latest, -1 without any.
And the first free place of `owed`, from call to call."""

UNKNOWN: Final = 0
OLD: Final = 1
NEW: Final = 2
IGNORE: Final = 3
"""What comes of an action: nothing here; what it says was known, or is new; no task uses its kind."""

_NONE: Final = np.int64(-1)
_ONE: Final = np.uint64(1)
_IN_GROUP: Final = np.uint64(GROUP - 1)
_BATCH: Final = 3


@inlined
def _bits_of(body: Any, start: Any, size: Any, kinds: Any, ends: Any, bits: Any) -> Any:
    """The tasks of a kind of action, 0 if none uses it."""
    found, begin = np.int64(0), np.uint64(0)
    for k in range(np.uint64(len(ends))):
        end = np.uint64(ends[k])
        if end - begin == size and same(body, start, kinds, begin, size):
            found = bits[k]
        begin = end
    return found


@kernel(
    BOOL(taken(U8, 1), taken(U8, 1), taken(I64, 1), taken(I64, 1), made(I64, 2), made(I64, 1)),
    allocates=False,
)
def parse(body: Any, kinds: Any, ends: Any, bits: Any, actions: Any, totals: Any) -> Any:
    """Read the records of a message into `actions` (n, FIELDS), and count what there is in `totals`.

    Returns:
        Whether every record is as our codec writes it. If not, nothing is said of any.
    """
    end = np.uint64(len(body))
    at, records = array(body, np.uint64(0), end)
    count, beats, word = np.uint64(0), 0, _NONE
    position = np.uint64(0)
    while position < records and at != BAD:
        at, fields = array(body, at, end)
        at, tag = number(body, at, end)
        at, value = number(body, at, end)
        if at != BAD and tag == BEAT and fields == np.uint64(2) and value <= MILLIS:
            beats += 1
            word = max(word, value)
        elif at != BAD and tag == _BATCH and fields == np.uint64(3):
            at, several = array(body, at, end)
            nth = np.uint64(0)
            while nth < several and at != BAD:
                row = actions[count]
                row[START] = at
                at, fields = array(body, at, end)
                at, start, size = text(body, at, end)
                row[ID_AT], row[ID_SIZE] = start, size
                at, row[ITEM] = number(body, at, end)
                at, start, size = text(body, at, end)
                at, time = number(body, at, end)
                at = real(body, at, end)
                if at == BAD or fields != np.uint64(5) or time > MILLIS:
                    at = BAD
                else:
                    row[BITS] = _bits_of(body, start, size, kinds, ends, bits)
                    row[END], row[USER], row[POSITION], row[TIME] = at, value, position, time
                    count += _ONE
                nth += _ONE
        else:
            at = BAD
        position += _ONE
    totals[COUNT], totals[BEATS], totals[WORD] = count, beats, word
    return at == end


@inlined
def _mark(slot: Any, item: Any, bits: Any, tasks: Any, rows: Any, items: Any, hits: Any) -> Any:
    """Set the pairs that an action makes positive: UNKNOWN if the item is not shown, NEW if any was unset."""
    result = UNKNOWN
    for row in range(rows):
        if items[slot, row] == item:
            result = max(result, OLD)
            for task in range(tasks):
                if np.uint64(bits) >> task & _ONE:
                    cell = row * tasks + task
                    word, bit = cell >> np.uint64(6), _ONE << (cell & np.uint64(63))
                    if not hits[slot, word] & bit:
                        hits[slot, word] |= bit
                        result = NEW
    return result


@inlined
def _owe(slot: Any, offset: Any, totals: Any, slots: Any, owed: Any) -> None:
    """The message at `offset` is acknowledged with the request."""
    node = np.uint64(totals[FREE])
    totals[FREE] = owed[node, 1]
    owed[node, 0], owed[node, 1] = offset, slots[slot, CHAIN]
    slots[slot, CHAIN] = node
    slots[slot, OWES] += 1


@inlined
def _look_ahead(
    body: Any, actions: Any, begin: Any, end: Any, index: Any, slots: Any, ids: Any, items: Any
) -> None:
    """Hash the request ids of some actions, and ask for what lies where these lead."""
    mask = np.uint64(len(index)) - _ONE
    for nth in range(begin, end):
        hashed = hash_of(body, np.uint64(actions[nth, ID_AT]), np.uint64(actions[nth, ID_SIZE]))
        actions[nth, HASHED] = np.int64(hashed)
        prefetch(index, hashed & mask)
    for nth in range(begin, end):
        slot = np.int64(index[np.uint64(actions[nth, HASHED]) & mask])
        if slot >= 0:
            prefetch(slots, slot * COLUMNS)
            prefetch(ids, slot * ID_BYTES)
            prefetch(items, slot * items.shape[1])


@kernel(VOID(taken(U8, 1), made(I64, 2), made(I64, 1), I64, I64, I64, *PARTS), allocates=False)
def match(
    body: Any, actions: Any, totals: Any, offset: Any, limit: Any, tasks: Any,
    index: Any, slots: Any, ids: Any, items: Any, hits: Any, owed: Any,
) -> None:  # fmt: skip
    """Put the actions of a message, as `parse` found them, into the hits of the requests that gather.

    Those of an event time past `limit`, and those that need more, are moved to the front of `actions`.
    """
    newest, doubled, ignored, odd = _NONE, 0, 0, np.uint64(0)
    count = np.uint64(totals[COUNT])
    for nth in range(count):
        row = actions[nth]
        if not nth & _IN_GROUP:
            _look_ahead(body, actions, nth, min(nth + np.uint64(GROUP), count), index, slots, ids, items)
        result = UNKNOWN
        if row[TIME] <= limit:
            newest = max(newest, row[TIME])
            start, size = np.uint64(row[ID_AT]), np.uint64(row[ID_SIZE])
            place = place_of(body, start, size, row[HASHED], index, slots, ids)
            slot = np.uint64(max(index[place], 0))
            if not row[BITS]:
                result = IGNORE
            elif index[place] >= 0 and row[TIME] <= slots[slot, UNTIL]:
                shown = np.uint64(slots[slot, ROWS])
                result = _mark(slot, row[ITEM], row[BITS], np.uint64(tasks), shown, items, hits)
                if result != UNKNOWN:
                    slots[slot, LAST] = offset
        if result == NEW:
            _owe(slot, offset, totals, slots, owed)
        elif result == UNKNOWN:
            for field in range(np.uint64(FIELDS)):
                actions[odd, field] = row[field]
            odd += _ONE
        doubled += result == OLD
        ignored += result == IGNORE
    totals[NEWEST], totals[DOUBLED], totals[IGNORED], totals[ODD] = newest, doubled, ignored, odd

"""The table of requests that gather, as arrays, found by the bytes of their ids.

`index` (2**b,) i4 has the slot of each request, reached from the hash of its id by going on to the next
place; FREE where there is none. `slots` (s, COLUMNS) i8 has a row a slot, `ids` (s * ID_BYTES,) u1 its id,
`items` (s, w) i8 what it shows, `hits` (s, v) u8 its positive (row, task) pairs, the bit of a pair being
row * tasks + task. `owed` (p, 2) i8 holds chains of action offsets: (offset, place of the next).
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I32, I64, U8, U64, VOID, inlined, kernel, made, taken
from streaming.kernels.wire import hash_of, same

ID_BYTES: Final = 40
"""The longest request id that is kept here."""

FREE: Final = -1

HASH: Final = 0
SIZE: Final = 1
ROWS: Final = 2
UNTIL: Final = 3
LAST: Final = 4
CHAIN: Final = 5
OWES: Final = 6
TICKET: Final = 7
TIME: Final = 8
START: Final = 9
LOG_SIZE: Final = 10
OFFSET: Final = 11
NTH: Final = 12
RESOLVED: Final = 13
COMPLETED: Final = 14
COLUMNS: Final = 15
"""Of a slot: the hash and the length of its id, its rows, the last event time of an action that counts, the
offset of the last action, the first place of its chain, -1 for none, and how many that has. The rest is of a
request that lies here alone, see `register`: its ticket, 0 for others; its event time; where its log lies in
its message, and how long that is; and the five that `blocks` wants to know of it."""

SLOT: Final = 0
ID_SIZE: Final = 1
SHOWN: Final = 2
COUNTS_UNTIL: Final = 3
ENTRY: Final = 4
"""Of a request that enters: its slot, the length of its id, its rows, and as UNTIL."""

SAID: Final = 2
"""Of a request that leaves, before its hits: the offset of its last action and one, and how many it owes."""

_INDEX: Final = made(I32, 1)
_SLOTS: Final = made(I64, 2)
_IDS: Final = made(U8, 1)
_ITEMS: Final = made(I64, 2)
_HITS: Final = made(U64, 2)
_OWED: Final = made(I64, 2)
PARTS: Final = (_INDEX, _SLOTS, _IDS, _ITEMS, _HITS, _OWED)
"""The types of the arrays, in order."""

_ONE: Final = np.uint64(1)
_ID: Final = np.uint64(ID_BYTES)


@inlined
def place_of(body: Any, start: Any, size: Any, hashed: Any, index: Any, slots: Any, ids: Any) -> Any:
    """Where in `index` the request with the id at body[start : start + size] lies, or where it would."""
    mask = np.uint64(len(index)) - _ONE
    place = np.uint64(hashed) & mask
    slot = np.int64(index[place])
    while slot >= 0 and not (
        slots[np.uint64(slot), HASH] == hashed
        and np.uint64(slots[np.uint64(slot), SIZE]) == size
        and same(body, start, ids, np.uint64(slot) * _ID, size)
    ):
        place = (place + _ONE) & mask
        slot = np.int64(index[place])
    return place


@inlined
def put_in(
    names: Any, begin: Any, size: Any, slot: Any, rows: Any, until: Any, index: Any, slots: Any, ids: Any,
    hits: Any,
) -> Any:  # fmt: skip
    """Put a request, with the id at names[begin : begin + size], into a free slot; its items are left to do.

    Returns:
        Whether it was put: not if that id is there already.
    """
    hashed = np.int64(hash_of(names, begin, size))
    place = place_of(names, begin, size, hashed, index, slots, ids)
    fresh = index[place] < 0
    if fresh:
        index[place] = slot
        slots[slot, HASH], slots[slot, SIZE], slots[slot, ROWS] = hashed, size, rows
        slots[slot, UNTIL], slots[slot, LAST] = until, FREE
        slots[slot, CHAIN], slots[slot, OWES], slots[slot, TICKET] = FREE, 0, 0
        for i in range(size):
            ids[slot * _ID + i] = names[begin + i]
        for word in range(np.uint64(hits.shape[1])):
            hits[slot, word] = np.uint64(0)
    return fresh


@kernel(I64(taken(U8, 1), _INDEX, _SLOTS, _IDS), allocates=False)
def find(name: Any, index: Any, slots: Any, ids: Any) -> Any:
    """The slot of the request with that id, -1 if it is not here."""
    size = np.uint64(len(name))
    zero = np.uint64(0)
    return np.int64(index[place_of(name, zero, size, np.int64(hash_of(name, zero, size)), index, slots, ids)])


@kernel(I64(taken(U8, 1), taken(I64, 1), taken(I64, 2), *PARTS[:5]), allocates=False)
def enter(
    names: Any, shown: Any, entries: Any, index: Any, slots: Any, ids: Any, items: Any, hits: Any
) -> Any:
    """Put the requests `entries` (k, ENTRY) into free slots; `names` and `shown` hold all ids and items.

    Returns:
        How many were put: less than k if the next one's id is there already.
    """
    begin, first = np.uint64(0), np.uint64(0)
    for k in range(np.uint64(len(entries))):
        slot, rows = np.uint64(entries[k, SLOT]), np.uint64(entries[k, SHOWN])
        size = np.uint64(entries[k, ID_SIZE])
        until = entries[k, COUNTS_UNTIL]
        if not put_in(names, begin, size, slot, rows, until, index, slots, ids, hits):
            return np.int64(k)
        for row in range(rows):
            items[slot, row] = shown[first + row]
        begin, first = begin + size, first + rows
    return np.int64(len(entries))


@inlined
def clear(slot: Any, index: Any, slots: Any) -> None:
    """Take a slot out of the index: whoever was put behind it for want of its place moves up."""
    mask = np.uint64(len(index)) - _ONE
    hole = np.uint64(slots[slot, HASH]) & mask
    while np.int64(index[hole]) != np.int64(slot):
        hole = (hole + _ONE) & mask
    after = (hole + _ONE) & mask
    while index[after] >= 0:
        home = np.uint64(slots[np.uint64(index[after]), HASH]) & mask
        if (after - home) & mask >= (after - hole) & mask:
            index[hole] = index[after]
            hole = after
        after = (after + _ONE) & mask
    index[hole] = FREE


@inlined
def unchain(slot: Any, at: Any, slots: Any, owed: Any, spare: Any, offsets: Any) -> Any:
    """Take the chain of a slot out of `owed`, into `offsets` from `at`; the place after it."""
    node = slots[slot, CHAIN]
    while node >= 0:
        place = np.uint64(node)
        offsets[at], node = owed[place, 0], owed[place, 1]
        owed[place, 1], spare[0] = spare[0], place
        at += _ONE
    return at


@kernel(
    I64(taken(I64, 1), _INDEX, _SLOTS, _HITS, _OWED, made(I64, 1), made(U64, 2), made(I64, 1)),
    allocates=False,
)
def leave(
    chosen: Any, index: Any, slots: Any, hits: Any, owed: Any, spare: Any, said: Any, offsets: Any
) -> Any:
    """Take the slots `chosen` out of the index, and their chains, into `offsets`, out of `owed`.

    `said` (k, SAID and the words of hits) takes what has come of each; `offsets` has room for all there are,
    one slot's behind the other's; `spare` (1,) is the first free place of `owed`.

    Returns:
        How many offsets there were.
    """
    at = np.uint64(0)
    for k in range(np.uint64(len(chosen))):
        slot = np.uint64(chosen[k])
        clear(slot, index, slots)
        said[k, 0], said[k, 1] = slots[slot, LAST] + 1, slots[slot, OWES]
        for word in range(np.uint64(hits.shape[1])):
            said[k, np.uint64(SAID) + word] = hits[slot, word]
        at = unchain(slot, at, slots, owed, spare, offsets)
    return np.int64(at)


@kernel(VOID(taken(I64, 1), _INDEX, _SLOTS), allocates=False)
def spread(chosen: Any, index: Any, slots: Any) -> None:
    """Fill an empty index with the slots `chosen`."""
    mask = np.uint64(len(index)) - _ONE
    for k in range(np.uint64(len(chosen))):
        place = np.uint64(slots[np.uint64(chosen[k]), HASH]) & mask
        while index[place] >= 0:
            place = (place + _ONE) & mask
        index[place] = chosen[k]

"""The cuckoo index from id to row: find, insert, remove and rehash, over whole batches of ids.

`slots` is uint64 (4 * buckets,), buckets a power of two: an entry is a tag in the upper 8 bits and a row in
the lower 56, 0 is empty. The ids themselves are not kept here: `ids[row]` proves a match.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import ROW_MASK, SLOTS, TAG_SHIFT, alternate, mix64, tag_of
from parameter_server.kernels.prefetch import GROUP, prefetch
from parameter_server.kernels.signatures import (
    BOOL,
    I64,
    I64_IN,
    I64_OUT,
    U64,
    U64_IN,
    U64_OUT,
    VOID,
    kernel,
)

EMPTY: Final = np.uint64(0)
_SEARCH_LIMIT: Final = 1024
"""Buckets that the kick path's breadth-first search may visit; paths stay within five moves."""


@kernel(I64(U64_IN, U64_IN, U64, U64, U64))
def _position(slots: Any, ids: Any, wanted: Any, hashed: Any, mask: Any) -> Any:
    """The slot that holds `wanted`, or -1."""
    tag = tag_of(hashed)
    bucket = hashed & mask
    for _ in range(2):
        base = np.int64(bucket) * SLOTS
        for position in range(base, base + SLOTS):
            entry = slots[position]
            if entry >> TAG_SHIFT == tag and ids[np.int64(entry & ROW_MASK)] == wanted:
                return position
        bucket = alternate(bucket, tag, mask)
    return np.int64(-1)


@kernel(I64(U64_IN, U64, U64))
def _candidate(slots: Any, hashed: Any, mask: Any) -> Any:
    """The row of one entry of either bucket whose tag fits, or -1; free of branches."""
    tag = tag_of(hashed)
    first = np.int64(hashed & mask) * SLOTS
    second = np.int64(alternate(hashed & mask, tag, mask)) * SLOTS
    row = np.int64(-1)
    for k in range(SLOTS):
        entry = slots[second + k]
        row = np.int64(entry & ROW_MASK) if entry >> TAG_SHIFT == tag else row
    for k in range(SLOTS):
        entry = slots[first + k]
        row = np.int64(entry & ROW_MASK) if entry >> TAG_SHIFT == tag else row
    return row


@kernel(VOID(U64_IN, U64_IN, U64_IN, I64, I64, U64_OUT, I64_OUT))
def find_group(slots: Any, ids: Any, wanted: Any, start: Any, stop: Any, hashes: Any, rows: Any) -> None:
    """rows[start:stop] of wanted[start:stop], -1 where absent; `hashes` is scratch of GROUP elements."""
    mask = np.uint64(len(slots) // SLOTS - 1)
    for i in range(start, stop):
        hashed = mix64(wanted[i])
        hashes[i - start] = hashed
        bucket = hashed & mask
        prefetch(slots, np.int64(bucket) * SLOTS)
        prefetch(slots, np.int64(alternate(bucket, tag_of(hashed), mask)) * SLOTS)
    for i in range(start, stop):
        row = _candidate(slots, hashes[i - start], mask)
        rows[i] = row
        prefetch(ids, max(row, np.int64(0)))
    for i in range(start, stop):
        row = rows[i]
        if row >= 0 and ids[row] != wanted[i]:  # another id with the same tag: rare
            position = _position(slots, ids, wanted[i], hashes[i - start], mask)
            rows[i] = np.int64(slots[position] & ROW_MASK) if position >= 0 else np.int64(-1)


@kernel(VOID(U64_IN, U64_IN, U64_IN, I64_OUT))
def find(slots: Any, ids: Any, wanted: Any, rows: Any) -> None:
    """The row of each id of `wanted` (n,) into `rows` (n,), -1 where absent."""
    hashes = np.empty(GROUP, np.uint64)
    for start in range(0, len(wanted), GROUP):
        find_group(slots, ids, wanted, start, min(start + GROUP, len(wanted)), hashes, rows)


@kernel(I64(U64_IN, U64))
def _free_slot(slots: Any, bucket: Any) -> Any:
    base = np.int64(bucket) * SLOTS
    for position in range(base, base + SLOTS):
        if slots[position] == EMPTY:
            return position
    return np.int64(-1)


@kernel(I64(U64_OUT, I64, I64, I64_OUT))
def _kick(slots: Any, free: Any, node: Any, came_from: Any) -> Any:
    """Move the entries on the path to `node` one step each, the far end first; the slot that became free."""
    while came_from[node] >= 0:
        source = came_from[_SEARCH_LIMIT + node]
        slots[free] = slots[source]
        slots[source] = EMPTY
        free = source
        node = came_from[node] // SLOTS
    return free


@kernel(I64(U64_OUT, U64, U64, U64_OUT, I64_OUT))
def _make_room(slots: Any, first: Any, second: Any, queue: Any, came_from: Any) -> Any:
    """Free a slot in bucket `first` or `second` along the shortest kick path; the slot, or -1: none near.

    `queue` holds the buckets visited, `came_from` the slot whose entry leads there. The path found is a
    shortest one, so no bucket occurs on it twice, and moving from its far end loses nothing.
    """
    mask = np.uint64(len(slots) // SLOTS - 1)
    queue[0], queue[1] = first, second
    came_from[0], came_from[1] = -1, -1
    count, head = 2, 0
    while head < count:
        free = _free_slot(slots, queue[head])
        if free >= 0:
            return _kick(slots, free, head, came_from)
        base = np.int64(queue[head]) * SLOTS
        for k in range(SLOTS):
            if count < _SEARCH_LIMIT:
                queue[count] = alternate(queue[head], slots[base + k] >> TAG_SHIFT, mask)
                came_from[count] = head * SLOTS + k
                came_from[_SEARCH_LIMIT + count] = base + k
                count += 1
        head += 1
    return np.int64(-1)


@kernel(BOOL(U64_OUT, U64, U64, U64_OUT, I64_OUT))
def _insert_one(slots: Any, hashed: Any, row: Any, queue: Any, came_from: Any) -> Any:
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    bucket = hashed & mask
    free = _make_room(slots, bucket, alternate(bucket, tag, mask), queue, came_from)
    if free < 0:
        return False
    slots[free] = tag << TAG_SHIFT | row
    return True


@kernel(I64(U64_OUT, U64_IN, I64_IN, I64))
def insert(slots: Any, ids: Any, rows: Any, start: Any) -> Any:
    """Enter the ids of rows[start:], none of which is in the index; how far it came.

    Less than len(rows) means that the id of the row at that place found no slot: the table must double.
    """
    queue = np.empty(_SEARCH_LIMIT, np.uint64)
    came_from = np.empty(2 * _SEARCH_LIMIT, np.int64)
    mask = np.uint64(len(slots) // SLOTS - 1)
    for group in range(start, len(rows), GROUP):
        stop = min(group + GROUP, len(rows))
        for i in range(group, stop):
            prefetch(slots, np.int64(mix64(ids[rows[i]]) & mask) * SLOTS)
        for i in range(group, stop):
            if not _insert_one(slots, mix64(ids[rows[i]]), np.uint64(rows[i]), queue, came_from):
                return i
    return np.int64(len(rows))


@kernel(VOID(U64_OUT, U64_IN, U64_IN, I64_OUT))
def remove(slots: Any, ids: Any, unwanted: Any, rows: Any) -> None:
    """Take `unwanted` (n,) out; the row of each into `rows` (n,), -1 where it was absent or a repeat."""
    mask = np.uint64(len(slots) // SLOTS - 1)
    for i in range(len(unwanted)):
        position = _position(slots, ids, unwanted[i], mix64(unwanted[i]), mask)
        rows[i] = -1
        if position >= 0:
            rows[i] = np.int64(slots[position] & ROW_MASK)
            slots[position] = EMPTY


@kernel(BOOL(U64_IN, U64_OUT, U64_IN))
def rehash(old: Any, new: Any, ids: Any) -> Any:
    """Enter every entry of `old` into the empty `new`; False if one found no slot."""
    queue = np.empty(_SEARCH_LIMIT, np.uint64)
    came_from = np.empty(2 * _SEARCH_LIMIT, np.int64)
    for position in range(len(old)):
        entry = old[position]
        if entry != EMPTY:
            row = entry & ROW_MASK
            if not _insert_one(new, mix64(ids[np.int64(row)]), row, queue, came_from):
                return False
    return True

"""The cuckoo index from id to row, the writer's side: insert, remove, relocate and migrate batches of ids.

`slots` is uint64 (4 * buckets,), buckets a power of two: an entry is a tag in the upper 8 bits and a row in
the lower 56, 0 is empty. The ids themselves are not kept here: the record of a row proves a match. Records
are uint64 (RECORD * rows,), the id first.

While an index changes its size there are two arrays. Entries move from `old` to `new`, copied before they
are cleared; inserts go to `new`. One writer may run beside any number of readers: whatever moves an entry
within an array makes `sequence` (1,) odd meanwhile, and a reader that misses looks again if it was odd or
has changed (`search.py`). So a reader never misses an id that is there.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.hashing import ONE, ROW_MASK, SLOTS, TAG_SHIFT, alternate, mix64, tag_of
from parameter_server.kernels.signatures import I64_IN, I64_OUT, U64_IN, U64_OUT
from runtime.compiled import BOOL, I64, U64, VOID, kernel
from runtime.prefetch import GROUP, fence, prefetch

EMPTY: Final = np.uint64(0)
RECORD: Final = 3
"""uint64 words a record: the id, the version (0: free), and last use with one more half word."""
_SEARCH_LIMIT: Final = 1024
"""Buckets that the kick path's breadth-first search may visit; paths stay within five moves."""


@kernel(I64(U64_IN, U64_IN, U64, U64))
def _position(slots: Any, records: Any, wanted: Any, hashed: Any) -> Any:
    """The slot that holds `wanted`, or -1; for the writer."""
    if len(slots) == 0:
        return np.int64(-1)
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    bucket = hashed & mask
    for _ in range(2):
        base = np.int64(bucket) * SLOTS
        for position in range(base, base + SLOTS):
            entry = slots[position]
            if entry >> TAG_SHIFT == tag and records[np.int64(entry & ROW_MASK) * RECORD] == wanted:
                return position
        bucket = alternate(bucket, tag, mask)
    return np.int64(-1)


@kernel(I64(U64_IN, U64))
def _free_slot(slots: Any, bucket: Any) -> Any:
    base = np.int64(bucket) * SLOTS
    for position in range(base, base + SLOTS):
        if slots[position] == EMPTY:
            return position
    return np.int64(-1)


@kernel(I64(U64_OUT, I64, I64, I64_OUT, U64_OUT))
def _kick(slots: Any, free: Any, node: Any, came_from: Any, sequence: Any) -> Any:
    """Move the entries on the path to `node` one step each, the far end first; the slot that became free."""
    if came_from[node] < 0:
        return free
    sequence[0] += ONE
    fence()
    while came_from[node] >= 0:
        source = came_from[_SEARCH_LIMIT + node]
        slots[free] = slots[source]
        fence()
        slots[source] = EMPTY
        free = source
        node = came_from[node] // SLOTS
    fence()
    sequence[0] += ONE
    return free


@kernel(I64(U64_OUT, U64, U64, U64_OUT, I64_OUT, U64_OUT))
def _make_room(slots: Any, first: Any, second: Any, queue: Any, came_from: Any, sequence: Any) -> Any:
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
            return _kick(slots, free, head, came_from, sequence)
        base = np.int64(queue[head]) * SLOTS
        for k in range(SLOTS):
            if count < _SEARCH_LIMIT:
                queue[count] = alternate(queue[head], slots[base + k] >> TAG_SHIFT, mask)
                came_from[count] = head * SLOTS + k
                came_from[_SEARCH_LIMIT + count] = base + k
                count += 1
        head += 1
    return np.int64(-1)


@kernel(BOOL(U64_OUT, U64, U64, U64_OUT, I64_OUT, U64_OUT))
def _insert_one(slots: Any, hashed: Any, row: Any, queue: Any, came_from: Any, sequence: Any) -> Any:
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    bucket = hashed & mask
    free = _make_room(slots, bucket, alternate(bucket, tag, mask), queue, came_from, sequence)
    if free < 0:
        return False
    fence()
    slots[free] = tag << TAG_SHIFT | row
    return True


@kernel(I64(U64_OUT, U64_OUT, U64_IN, I64_IN, I64))
def insert(slots: Any, sequence: Any, records: Any, rows: Any, start: Any) -> Any:
    """Enter the ids of rows[start:], none of which is in the index; how far it came.

    Less than len(rows) means that the id of the row at that place found no slot: the index must grow.
    """
    queue = np.empty(_SEARCH_LIMIT, np.uint64)
    came_from = np.empty(2 * _SEARCH_LIMIT, np.int64)
    mask = np.uint64(len(slots) // SLOTS - 1)
    for group in range(start, len(rows), GROUP):
        stop = min(group + GROUP, len(rows))
        for i in range(group, stop):
            prefetch(slots, np.int64(mix64(records[rows[i] * RECORD]) & mask) * SLOTS)
        for i in range(group, stop):
            hashed = mix64(records[rows[i] * RECORD])
            if not _insert_one(slots, hashed, np.uint64(rows[i]), queue, came_from, sequence):
                return i
    return np.int64(len(rows))


@kernel(VOID(U64_OUT, U64_OUT, U64_IN, U64_IN, I64_OUT))
def remove(old: Any, new: Any, records: Any, unwanted: Any, rows: Any) -> None:
    """Take `unwanted` (n,) out; the row of each into `rows` (n,), -1 where it was absent or a repeat."""
    for i in range(len(unwanted)):
        hashed = mix64(unwanted[i])
        rows[i] = -1
        position = _position(new, records, unwanted[i], hashed)
        if position >= 0:
            rows[i] = np.int64(new[position] & ROW_MASK)
            new[position] = EMPTY
        else:
            position = _position(old, records, unwanted[i], hashed)
            if position >= 0:
                rows[i] = np.int64(old[position] & ROW_MASK)
                old[position] = EMPTY


@kernel(VOID(U64_OUT, U64_OUT, U64_IN, U64_IN, I64_IN))
def relocate(old: Any, new: Any, records: Any, ids: Any, rows: Any) -> None:
    """Point the entries of `ids` (n,), all present, at `rows` (n,); both rows have the id's record."""
    for i in range(len(ids)):
        hashed = mix64(ids[i])
        entry = tag_of(hashed) << TAG_SHIFT | np.uint64(rows[i])
        position = _position(new, records, ids[i], hashed)
        if position >= 0:
            new[position] = entry
        else:
            old[_position(old, records, ids[i], hashed)] = entry


@kernel(I64(U64_OUT, U64_OUT, U64_OUT, U64_IN, I64, I64))
def migrate(old: Any, new: Any, sequence: Any, records: Any, start: Any, stop: Any) -> Any:
    """Move the entries in old[start:stop] to `new`; `stop`, or the position of one that found no slot."""
    queue = np.empty(_SEARCH_LIMIT, np.uint64)
    came_from = np.empty(2 * _SEARCH_LIMIT, np.int64)
    for position in range(start, stop):
        entry = old[position]
        if entry != EMPTY:
            row = entry & ROW_MASK
            hashed = mix64(records[np.int64(row) * RECORD])
            if not _insert_one(new, hashed, row, queue, came_from, sequence):
                return position
            fence()
            old[position] = EMPTY
    return stop

"""The cuckoo index from id to row, the readers' side: the stages of a pipelined search, and `find`.

`cuckoo.py` says how an index is laid out, and what a writer beside a reader does. The ids of a batch follow
one another through the stages at the distances FIRST, SECOND and LAST: each stage asks for what the next one
reads, so that cache misses overlap, with each other and with the work of the last stage. The tag of a row
found by `stages` fits; that its record has the id is for `confirmed` to see, which calls `settled` if not.

Places in arrays are reckoned in uint64: numba lets a signed index count from the end, and reading a row by
such indices takes a gather where a vector load would do.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.cuckoo import EMPTY, RECORD
from parameter_server.kernels.hashing import ONE, ROW_MASK, SLOTS, TAG_SHIFT, alternate, mix64, tag_of
from parameter_server.kernels.signatures import I64_OUT, U64_IN, U64_OUT
from runtime.compiled import I64, U64, VOID, inlined, kernel
from runtime.prefetch import fence, prefetch, prefetch_second

FIRST: Final = 12
SECOND: Final = 28
LAST: Final = 44
"""How many ids a stage is behind the one that asks for buckets."""
_LINE: Final = 16
"""float32 values a cache line."""
_SLOTS: Final = np.uint64(SLOTS)


@kernel(I64(U64_IN, U64_IN, U64, U64), allocates=False)
def _row(slots: Any, records: Any, wanted: Any, hashed: Any) -> Any:
    """The row of `wanted`, or -1; reads each entry once, so that a writer may run beside it."""
    if len(slots) == 0:
        return np.int64(-1)
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    bucket = hashed & mask
    for _ in range(2):
        base = np.int64(bucket) * SLOTS
        for position in range(base, base + SLOTS):
            entry = slots[position]
            place = np.int64(entry & ROW_MASK) * RECORD
            if entry >> TAG_SHIFT == tag and place < len(records) and records[place] == wanted:
                return np.int64(entry & ROW_MASK)
        bucket = alternate(bucket, tag, mask)
    return np.int64(-1)


@kernel(I64(U64_IN, U64_IN, U64_IN, U64_IN, U64, U64), allocates=False)
def settled(old: Any, new: Any, sequence: Any, records: Any, wanted: Any, hashed: Any) -> Any:
    """The row of `wanted`, or -1 once nothing moved while it was not found."""
    while True:
        before = sequence[0]
        fence()
        row = _row(new, records, wanted, hashed)
        if row < 0 and len(old) > 0:
            row = _row(old, records, wanted, hashed)
            fence()
            if row < 0:  # it may have moved from old to new meanwhile
                row = _row(new, records, wanted, hashed)
        fence()
        if row >= 0 or (before == sequence[0] and before & ONE == EMPTY):
            return row


@inlined
def _names(records: Any, row: Any, wanted: Any) -> Any:
    """Whether the record of `row`, -1 for none, has the id `wanted`."""
    place = np.uint64(row) * np.uint64(RECORD)
    return place < np.uint64(len(records)) and records[place] == wanted


@inlined
def ask_row(values: Any, width: Any, row: Any) -> None:
    """Ask for a row, 0 or above, of a flat array of float32, `width` a row."""
    for j in range(0, width, _LINE):
        prefetch_second(values, row * width + j)


@inlined
def hash_all(wanted: Any, hashes: Any) -> None:
    """Hash `wanted` (n,) into `hashes` (n,): all at once, in vector registers."""
    for i in range(len(wanted)):
        hashes[i] = mix64(wanted[i])


@inlined
def _ask(slots: Any, hashed: Any) -> None:
    """First stage: ask for the first bucket.

    No other is asked for at first: inserts prefer it, so that it mostly has the id.
    """
    prefetch(slots, (hashed & np.uint64(len(slots) // SLOTS - 1)) * _SLOTS)


@inlined
def _fitting(slots: Any, bucket: Any, tag: Any) -> Any:
    row = np.int64(-1)
    for k in range(_SLOTS):
        entry = slots[bucket * _SLOTS + k]
        row = np.int64(entry & ROW_MASK) if entry >> TAG_SHIFT == tag else row
    return row


@inlined
def _ask_record(records: Any, vectors: Any, dim: Any, row: Any) -> None:
    prefetch(records, row * RECORD)
    prefetch(records, row * RECORD + (RECORD - 1))
    ask_row(vectors, dim, row)


@inlined
def _probe(slots: Any, records: Any, vectors: Any, dim: Any, hashed: Any) -> Any:
    """Second stage: the row whose tag fits in the first bucket, or -1; ask for the row or the other bucket.

    A row's record and its `dim` values in the flat `vectors` are asked for.
    """
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    row = _fitting(slots, hashed & mask, tag)
    if row < 0:
        prefetch(slots, alternate(hashed & mask, tag, mask) * _SLOTS)
    else:
        _ask_record(records, vectors, dim, row)
    return row


@inlined
def _probe_other(slots: Any, records: Any, vectors: Any, dim: Any, hashed: Any) -> Any:
    """Third stage: as `_probe`, in the other bucket; for ids of which the first had no fitting tag."""
    mask = np.uint64(len(slots) // SLOTS - 1)
    tag = tag_of(hashed)
    row = _fitting(slots, alternate(hashed & mask, tag, mask), tag)
    if row >= 0:
        _ask_record(records, vectors, dim, row)
    return row


@inlined
def stages(slots: Any, records: Any, vectors: Any, dim: Any, hashes: Any, rows: Any, ahead: Any) -> None:
    """The first three stages, for the ids up to the one at `ahead`, which may lie behind the last.

    `hashes` (n,) has all of them. Then rows[ahead - SECOND] is the row whose tag fits, or -1.
    """
    n = len(hashes)
    if ahead < n:
        _ask(slots, hashes[ahead])
    i = ahead - FIRST
    if 0 <= i < n:
        rows[i] = _probe(slots, records, vectors, dim, hashes[i])
    i = ahead - SECOND
    if 0 <= i < n and rows[i] < 0:
        rows[i] = _probe_other(slots, records, vectors, dim, hashes[i])


@inlined
def confirmed(old: Any, new: Any, sequence: Any, records: Any, row: Any, wanted: Any, hashed: Any) -> Any:
    """Last stage: `row` if its record has the id, else where the id is after all, or -1."""
    if not _names(records, row, wanted):
        row = settled(old, new, sequence, records, wanted, hashed)
    return row


@kernel(VOID(U64_IN, U64_IN, U64_IN, U64_IN, U64_IN, U64_OUT, I64_OUT), allocates=False)
def find(old: Any, new: Any, sequence: Any, records: Any, wanted: Any, hashes: Any, rows: Any) -> None:
    """The row of each id of `wanted` (n,) into `rows` (n,), -1 where absent; `hashes` (n,) is scratch."""
    n = len(wanted)
    hash_all(wanted, hashes)
    for ahead in range(n + LAST):
        stages(new, records, records, 0, hashes, rows, ahead)
        i = ahead - LAST
        if i >= 0:
            rows[i] = confirmed(old, new, sequence, records, rows[i], wanted[i], hashes[i])

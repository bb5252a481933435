"""The cuckoo index from id to row, the readers' side: the stages of a pipelined search, and `find`.

`cuckoo.py` says how an index is laid out, and what a writer beside a reader does. A batch goes through the
stages in groups: each stage asks for what the next one reads, so that cache misses overlap. The tag of a row
found by `probe` fits; that its record has the id is for the last stage to see, which calls `settled` if not.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from parameter_server.kernels.cuckoo import EMPTY, RECORD
from parameter_server.kernels.hashing import ONE, ROW_MASK, SLOTS, TAG_SHIFT, alternate, mix64, tag_of
from parameter_server.kernels.prefetch import GROUP, fence, prefetch
from parameter_server.kernels.signatures import I64, I64_OUT, U64, U64_IN, U64_OUT, VOID, inlined, kernel

_LINE: Final = 16
"""float32 values a cache line."""


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
def ask_rows(values: Any, width: Any, rows: Any, start: Any, stop: Any) -> None:
    """Ask for the rows rows[start:stop], -1 for none, of a flat array of float32, `width` a row."""
    for i in range(start, stop):
        for j in range(0, width, _LINE):
            prefetch(values, max(rows[i], np.int64(0)) * width + j)


@inlined
def ask(slots: Any, wanted: Any, hashes: Any, start: Any, stop: Any) -> None:
    """First stage, for wanted[start:stop]: hash, and ask for the first bucket.

    No other is asked for at first: inserts prefer it, so that it mostly has the id.
    """
    mask = np.uint64(len(slots) // SLOTS - 1)
    for i in range(start, stop):
        hashed = mix64(wanted[i])
        hashes[i] = hashed
        prefetch(slots, np.int64(hashed & mask) * SLOTS)


@inlined
def probe(
    slots: Any, records: Any, vectors: Any, dim: Any, hashes: Any, rows: Any, start: Any, stop: Any
) -> None:
    """Second stage: a row whose tag fits in the first bucket, or -1; ask for the row or the other bucket.

    A row's record and its `dim` values in the flat `vectors` are asked for.
    """
    mask = np.uint64(len(slots) // SLOTS - 1)
    for i in range(start, stop):
        hashed = hashes[i]
        tag = tag_of(hashed)
        base = np.int64(hashed & mask) * SLOTS
        row = np.int64(-1)
        for k in range(SLOTS):
            entry = slots[base + k]
            row = np.int64(entry & ROW_MASK) if entry >> TAG_SHIFT == tag else row
        rows[i] = row
        if row < 0:
            prefetch(slots, np.int64(alternate(hashed & mask, tag, mask)) * SLOTS)
        else:
            prefetch(records, row * RECORD)
            prefetch(records, row * RECORD + (RECORD - 1))
            for j in range(0, dim, _LINE):
                prefetch(vectors, row * dim + j)


@inlined
def probe_other(
    slots: Any, records: Any, vectors: Any, dim: Any, hashes: Any, rows: Any, start: Any, stop: Any
) -> None:
    """Third stage: as `probe`, in the other bucket, where the first had no fitting tag."""
    mask = np.uint64(len(slots) // SLOTS - 1)
    for i in range(start, stop):
        if rows[i] < 0:
            tag = tag_of(hashes[i])
            base = np.int64(alternate(hashes[i] & mask, tag, mask)) * SLOTS
            row = np.int64(-1)
            for k in range(SLOTS):
                entry = slots[base + k]
                row = np.int64(entry & ROW_MASK) if entry >> TAG_SHIFT == tag else row
            rows[i] = row
            if row >= 0:
                prefetch(records, row * RECORD)
                prefetch(records, row * RECORD + (RECORD - 1))
                for j in range(0, dim, _LINE):
                    prefetch(vectors, row * dim + j)


@kernel(VOID(U64_IN, U64_IN, U64_IN, U64_IN, U64_IN, U64_OUT, I64_OUT), allocates=False)
def find(old: Any, new: Any, sequence: Any, records: Any, wanted: Any, hashes: Any, rows: Any) -> None:
    """The row of each id of `wanted` (n,) into `rows` (n,), -1 where absent; `hashes` (n,) is scratch."""
    n = len(wanted)
    for start in range(0, n + 3 * GROUP, GROUP):
        first, second, third = max(start - GROUP, 0), max(start - 2 * GROUP, 0), max(start - 3 * GROUP, 0)
        ask(new, wanted, hashes, start, min(start + GROUP, n))
        probe(new, records, records, 0, hashes, rows, first, min(start, n))
        probe_other(new, records, records, 0, hashes, rows, second, min(start - GROUP, n))
        for i in range(third, min(start - 2 * GROUP, n)):
            place = rows[i] * RECORD
            if not (0 <= place < len(records) and records[place] == wanted[i]):
                rows[i] = settled(old, new, sequence, records, wanted[i], hashes[i])

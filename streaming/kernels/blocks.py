"""Sample blocks of whole requests, written from the bytes of their feature logs."""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np

from runtime.compiled import I64, U8, U64, VOID, inlined, kernel, made, taken
from streaming.kernels import logs
from streaming.kernels.wire import put_binary, put_bytes, put_head, put_number

LOG_SIZE: Final = 0
OFFSET: Final = 1
INDEX: Final = 2
RESOLVED: Final = 3
COMPLETED: Final = 4
FACTS: Final = 5
"""Of a block: the size of its log, and where that lies in Kafka; and its other two, see `SampleBlock`."""

BLOCK_END: Final = 0
USER: Final = 1
RESULTS: Final = 2
"""Of a block that was written: where it ends, and its user."""

ROOM: Final = 128
"""A block takes fewer bytes than its log, this, the names of its tasks, and its own columns."""

_ONE: Final = np.uint64(1)
_TWO: Final = np.uint64(2)
_FOUR: Final = np.uint64(4)
_EIGHT: Final = np.uint64(8)
_TAG: Final = 4
_ARRAY: Final = 0x90
_BLOCK: Final = np.array([0xDC, 0, 20, _TAG, _ARRAY + 3], np.uint8)
_MINUS_ONE: Final = 0xFF


@inlined
def _put_floats(out: Any, at: Any, hits: Any, k: Any, count: Any) -> Any:
    """The set as a column <f4 of 1.0 and 0.0."""
    at = put_binary(out, at, _FOUR * count)
    for cell in range(count):
        bit = hits[k, cell >> np.uint64(6)] >> (cell & np.uint64(63)) & _ONE
        out[at], out[at + _ONE] = 0, 0
        out[at + _TWO], out[at + _TWO + _ONE] = bit * np.uint64(0x80), bit * np.uint64(0x3F)
        at += _FOUR
    return at


@inlined
def _put_same(out: Any, at: Any, value: Any, size: Any) -> Any:
    """A run of `size` equal bytes."""
    at = put_binary(out, at, size)
    for i in range(size):
        out[at + i] = value
    return at + size


@inlined
def _put_rows(out: Any, at: Any, rows: Any) -> Any:
    """The column <u2 of all rows."""
    at = put_binary(out, at, _TWO * rows)
    for row in range(rows):
        out[at], out[at + _ONE] = row & np.uint64(0xFF), row >> _EIGHT
        at += _TWO
    return at


@inlined
def _put_part(out: Any, at: Any, body: Any, start: Any, size: Any) -> Any:
    """A run of bytes that lies in `body`."""
    at = put_binary(out, at, np.uint64(size))
    return put_bytes(out, at, body, np.uint64(start), np.uint64(size))


@inlined
def _put_text(out: Any, at: Any, body: Any, start: Any, size: Any) -> Any:
    """A string of less than 256 bytes that lies in `body`."""
    if size < np.uint64(32):
        out[at] = np.uint64(0xA0) | size
        at += _ONE
    else:
        at = put_head(out, at, np.uint64(0xD9), size)
    return put_bytes(out, at, body, start, size)


@kernel(
    VOID(
        taken(U8, 1),
        I64,
        taken(I64, 2),
        taken(U64, 2),
        taken(U8, 1),
        I64,
        made(I64, 1),
        made(U8, 1),
        made(I64, 2),
    ),
    allocates=False,
)
def write(
    packed: Any,
    partition: Any,
    facts: Any,
    hits: Any,
    names: Any,
    tasks: Any,
    parts: Any,
    out: Any,
    results: Any,
) -> None:
    """Write the block of each of the logs `packed`, one behind the other, with every pair spoken for.

    Args:
        packed: the feature logs.
        partition: their partition.
        facts: (k, FACTS).
        hits: their positive pairs, (k, words), the bit of one being row * tasks + task.
        names: the names of the tasks, as MessagePack.
        tasks: how many these are.
        parts: (logs.PARTS,) to work with.
        out: takes the blocks; large enough, see ROOM.
        results: (RESULTS, k); the block of a log that our codec did not write has no bytes.
    """
    begin, at = np.uint64(0), np.uint64(0)
    width = np.uint64(tasks)
    for k in range(np.uint64(len(facts))):
        end = begin + np.uint64(facts[k, LOG_SIZE])
        after = logs.walk(packed, begin, end, parts)
        rows = np.uint64(parts[logs.ROWS])
        cells = rows * width
        begin = end
        if after == end and cells <= np.uint64(64 * hits.shape[1]):
            at = put_bytes(out, at, _BLOCK, np.uint64(0), np.uint64(len(_BLOCK)))
            at = put_number(out, at, partition)
            at = put_number(out, at, facts[k, OFFSET])
            at = put_number(out, at, facts[k, INDEX])
            at = put_number(out, at, facts[k, RESOLVED])
            at = put_number(out, at, facts[k, COMPLETED])
            at = _put_text(out, at, packed, np.uint64(parts[logs.ID_AT]), np.uint64(parts[logs.ID_SIZE]))
            at = put_number(out, at, parts[logs.USER])
            at = put_number(out, at, parts[logs.TIME])
            at = put_number(out, at, parts[logs.SURFACE])
            at = put_bytes(out, at, names, np.uint64(0), np.uint64(len(names)))
            at = _put_rows(out, at, rows)
            at = _put_part(out, at, packed, parts[logs.ITEMS], rows * _EIGHT)
            at = _put_part(out, at, packed, parts[logs.POSITIONS], rows * _TWO)
            start = np.uint64(parts[logs.FEATURES])
            at = put_bytes(out, at, packed, start, np.uint64(parts[logs.FEATURES_END]) - start)
            at = _put_floats(out, at, hits, k, cells)
            at = _put_same(out, at, 1, cells)
            at = _put_same(out, at, 0, _FOUR * rows)
            at = _put_part(out, at, packed, parts[logs.SCORES], parts[logs.SCORES_SIZE])
            at = put_binary(out, at, np.uint64(0))
            out[at] = _MINUS_ONE
            at += _ONE
            at = _put_part(out, at, packed, parts[logs.PROPENSITIES], parts[logs.PROPENSITIES_SIZE])
        results[BLOCK_END, k], results[USER, k] = at, parts[logs.USER]

"""Sets of (row, task) pairs of one request, as integers: the bit of a pair is row * tasks + task. Pure.

Rows are impressions. A set is a value, so whoever holds one need not fear that it changes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_CELL: Final = 8


def every(rows: int, tasks: int) -> int:
    """All pairs of `rows` rows."""
    return (1 << rows * tasks) - 1


def of_item(items: bytes, item_id: int, bits: int, tasks: int) -> int:
    """The pairs of task set `bits` for each row of column `items` (<i8) that shows an item."""
    sought = item_id.to_bytes(_CELL, "little")
    at = items.find(sought)
    if at < 0:
        return 0
    after = items.find(sought, at + _CELL)
    if after < 0 and not at % _CELL:  # as a rule an item is shown once
        return bits << at // _CELL * tasks
    return sum(
        bits << row * tasks for row in range(len(items) // _CELL) if items.startswith(sought, row * _CELL)
    )


def of_row(cells: int, row: int, tasks: int) -> int:
    """The task set of one row."""
    return cells >> row * tasks & (1 << tasks) - 1


def rows_in(cells: int, tasks: int) -> list[int]:
    """The rows that have any pair, ascending."""
    rows = []
    while cells:
        row = ((cells & -cells).bit_length() - 1) // tasks
        rows.append(row)
        cells = cells >> (row + 1) * tasks << (row + 1) * tasks
    return rows


def gather(cells: int, rows: Sequence[int], tasks: int) -> int:
    """The set as it is where `rows` alone are left, numbered from 0."""
    gathered = 0
    for at, row in enumerate(rows):
        gathered |= of_row(cells, row, tasks) << at * tasks
    return gathered


def scatter(cells: int, rows: Sequence[int], tasks: int) -> int:
    """The set that `gather` gave `cells` of."""
    scattered = 0
    for at, row in enumerate(rows):
        scattered |= of_row(cells, at, tasks) << row * tasks
    return scattered


def flags(cells: int, rows: int, tasks: int) -> bytes:
    """The set as a column u1 (rows, tasks)."""
    size = rows * tasks
    if cells == (1 << size) - 1:
        return _ones(size)
    return b"".join([_FLAGS[byte] for byte in cells.to_bytes((size + 7) // 8, "little")])[:size]


def labels(cells: int, rows: int, tasks: int) -> bytes:
    """The set as a column <f4 (rows, tasks) of 1.0 and 0.0."""
    size = rows * tasks
    return b"".join([_LABELS[byte] for byte in cells.to_bytes((size + 7) // 8, "little")])[: 4 * size]


def from_flags(column: bytes) -> int:
    """The set of which `column` is the `flags`; whatever is not 0 counts."""
    return sum(1 << at for at, flag in enumerate(column) if flag)


def from_labels(column: bytes) -> int:
    """The set of which `column` is the `labels`."""
    return from_flags(column[3::4])  # 1.0 ends in 0x3f


def to_bytes(cells: int) -> bytes:
    """As short as may be; `int.from_bytes(…, "little")` gives it back."""
    return cells.to_bytes((cells.bit_length() + 7) // 8, "little")


_FLAGS: Final = tuple(bytes(byte >> bit & 1 for bit in range(8)) for byte in range(256))
_LABELS: Final = tuple(struct.pack("<8f", *flags) for flags in _FLAGS)
"""The columns of the eight pairs that a byte of a set holds."""


@lru_cache(maxsize=4096)
def _ones(count: int) -> bytes:
    return b"\x01" * count

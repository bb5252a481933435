"""The columns of requests, each of which has its own, put one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from schema.config import SlotConfig
from schema.records import F32, I64, U64, IdColumn

_NONE: Final = b"\x00\x00"
_ONE: Final = b"\x01\x00"


def gather(
    slot: SlotConfig, columns: Sequence[tuple[IdColumn, ...]], rows: Sequence[int]
) -> tuple[U64, I64 | None]:
    """All ids of one slot, and how many each row has, None for one each."""
    if len(columns) == 1:
        return _gathered(slot, columns[0], rows[0])
    found = [column_of(slot.slot, request) for request in columns]
    ids = np.frombuffer(b"".join([c.ids for c in found if c is not None]), "<u8")
    parts = [_NONE if c is None else c.lengths for c in found]
    if not any(parts):
        return ids, None
    if not all(parts) or None in found:
        parts = [
            _NONE * count if c is None else c.lengths or _ONE * count
            for c, count in zip(found, rows, strict=True)
        ]
    return ids, np.frombuffer(b"".join(parts), "<u2").astype(np.int64)


def _gathered(slot: SlotConfig, columns: Sequence[IdColumn], rows: int) -> tuple[U64, I64 | None]:
    """As `gather`, of one request: what serving ranks."""
    column = column_of(slot.slot, columns)
    if column is None:
        return np.empty(0, np.uint64), np.zeros(rows, np.int64)
    lengths = np.frombuffer(column.lengths, "<u2").astype(np.int64) if column.lengths else None
    return np.frombuffer(column.ids, "<u8"), lengths


def column_of(slot: int, columns: Sequence[IdColumn]) -> IdColumn | None:
    """The first column of `slot` among those of a request, None where it has none."""
    return next((column for column in columns if column.slot == slot), None)


def dense(name: str, parts: Sequence[bytes], rows: int, width: int) -> F32:
    """The dense values `name` of all requests, shape (rows, width).

    Raises:
        ValueError: there are more or fewer.
    """
    values = np.frombuffer(b"".join(parts), "<f4")
    if len(values) != rows * width:
        raise ValueError(f"{name}: {len(values)} values for {rows} rows; legal is {width} a row")
    return values.reshape(rows, width).copy()

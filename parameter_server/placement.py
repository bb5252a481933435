"""Where the vectors and optimizer state of records lie: beside them, or in the slab of their size class.

Knows no ids. Both kinds answer `parts`, so that whoever reads or updates rows need not know which it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.kernels.cuckoo import RECORD
from parameter_server.kernels.rows import HALVES, OTHER
from parameter_server.memory import Column
from parameter_server.slabs import OwnedSlab, Slab
from schema.records import F32, I64, U64

_CLASS_SHIFT: Final = np.uint64(56)
_ROW_MASK: Final = np.uint64((1 << 56) - 1)
_FLOAT_BYTES: Final = 4
_PLACE_BYTES: Final = 16
"""Of a row that says where its vector is, and of a vector that says whose it is."""


State = tuple[F32, int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Those of some records that share a size class.

    `positions` (m,) in the list that was asked about; `rows` (m,) of `vectors` (·, width) and `state_rows`
    (·, s). `state` is (flat, stride, offset), the memory behind the latter: that of a row starts at
    flat[row * stride + offset].
    """

    number: int
    positions: I64
    rows: I64
    vectors: F32
    state_rows: F32
    state: State


class Fixed:
    """One size class: record i has row i. With `in_record`, its one value of state lies in the record itself.

    Args:
        width: of the vectors.
        state_width: float32 values of state a row.
        in_record: keep the state in the records, which must then have room for it.
        rows: how many there are at first.
    """

    def __init__(self, width: int, state_width: int, rows: int, *, in_record: bool) -> None:
        self.widths = np.array([width], np.uint16)
        self._in_record = in_record
        self._slab = Slab(width, 0 if in_record else state_width, rows)
        self._halves: F32 = np.empty(0, np.float32)

    @property
    def vectors(self) -> F32:
        """float32 (records, width)."""
        return self._slab.vectors

    @property
    def state(self) -> State:
        """As `Part` has it."""
        if self._in_record:
            return self._halves, HALVES, OTHER
        return self._slab.state, self._slab.state_width, 0

    def resize(self, records: U64) -> None:
        """Follow the words (3 * n,) of the records, which have been resized."""
        self._slab.resize(len(records) // RECORD)
        self._halves = records.reshape(-1).view(np.float32)

    def parts(self, rows: I64) -> list[Part]:
        """All of `rows` (n,), as one part."""
        if not len(rows):
            return []
        cells = self._slab.state_rows
        if self._in_record:
            cells = self._halves.reshape(-1, HALVES)[:, OTHER : OTHER + 1]
        return [Part(0, np.arange(len(rows)), rows, self.vectors, cells, self.state)]

    def create(self, rows: I64, classes: NDArray[np.int64]) -> None:
        """Nothing to do: every record has its row."""

    def clear(self, rows: I64) -> None:
        """Zero the rows of freed records."""
        self._slab.clear(rows)

    def move(self, sources: I64, targets: I64) -> None:
        """Follow records that move to free ones."""
        self._slab.move(sources, targets)

    def classes(self, rows: I64) -> I64:
        """The size class of each: 0."""
        return np.zeros(len(rows), np.int64)

    def pack(self, limit: int) -> None:
        """Nothing to do: rows are packed with their records."""

    def check_integrity(self, live: I64) -> None:
        """Nothing can disagree."""

    def bytes(self, records: int) -> int:
        """Of vectors and state, for so many records."""
        return records * _FLOAT_BYTES * (self._slab.width + self._slab.state_width)


class Sized:
    """Several size classes, each with a slab; a column says which, and which row.

    Args:
        widths: of the classes, ascending.
        state_widths: float32 values of state a row of each class.
        rows: how many records there are at first.
    """

    def __init__(self, widths: Sequence[int], state_widths: Sequence[int], rows: int) -> None:
        self.widths = np.array(widths, np.uint16)
        self._slabs = [OwnedSlab(w, s) for w, s in zip(widths, state_widths, strict=True)]
        self._places = Column(rows, 0, np.uint64)

    def resize(self, records: U64) -> None:
        """Follow the words (3 * n,) of the records, which have been resized."""
        self._places.resize(len(records) // RECORD)

    def parts(self, rows: I64) -> list[Part]:
        """`rows` (n,) by size class; none empty."""
        places = self._places.array[rows]
        classes = places >> _CLASS_SHIFT
        parts = []
        for number, slab in enumerate(self._slabs):
            positions = np.flatnonzero(classes == number)
            if len(positions):
                at = (places[positions] & _ROW_MASK).astype(np.int64)
                state = (slab.state, slab.state_width, 0)
                parts.append(Part(number, positions, at, slab.vectors, slab.state_rows, state))
        return parts

    def create(self, rows: I64, classes: NDArray[np.int64]) -> None:
        """Give each record of `rows` (n,) a zeroed row in its class (n,)."""
        for number, slab in enumerate(self._slabs):
            mine = rows[classes == number]
            if len(mine):
                at = slab.take(mine).astype(np.uint64)
                self._places.array[mine] = np.uint64(number) << _CLASS_SHIFT | at

    def clear(self, rows: I64) -> None:
        """Free the rows of freed records."""
        for part in self.parts(rows):
            self._slabs[part.number].give(part.rows)
        self._places.array[rows] = 0

    def move(self, sources: I64, targets: I64) -> None:
        """Follow records that move to free ones."""
        for part in self.parts(sources):
            self._slabs[part.number].owners[part.rows] = targets[part.positions]
        self._places.array[targets] = self._places.array[sources]
        self._places.array[sources] = 0

    def classes(self, rows: I64) -> I64:
        """The size class of each of `rows` (n,)."""
        return (self._places.array[rows] >> _CLASS_SHIFT).astype(np.int64)

    def pack(self, limit: int) -> None:
        """Move at most `limit` rows of each mostly free slab forward."""
        for number, slab in enumerate(self._slabs):
            owners, rows = slab.pack(limit)
            self._places.array[owners] = np.uint64(number) << _CLASS_SHIFT | rows.astype(np.uint64)

    def check_integrity(self, live: I64) -> None:
        """Check that the records `live` and the rows of the slabs point at one another.

        Raises:
            AssertionError: they do not.
        """
        parts = self.parts(live)
        for part in parts:
            slab = self._slabs[part.number]
            owners = slab.owners[part.rows]
            assert np.array_equal(owners, live[part.positions]), "a row has another owner"  # noqa: S101
        counts = {part.number: len(part.rows) for part in parts}
        held = {number: len(slab) for number, slab in enumerate(self._slabs) if len(slab)}
        assert counts == held, f"rows by class: {held} held, {counts} owned"  # noqa: S101

    def bytes(self, records: int) -> int:
        """Of vectors and state of all rows in use, and of the columns that say where they are."""
        values = sum(len(s) * _FLOAT_BYTES * (s.width + s.state_width) for s in self._slabs)
        return records * _PLACE_BYTES + values

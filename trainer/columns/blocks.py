"""Some consecutive blocks of the topic in columns, sound and ready to be trained on.

Nothing is copied out of the messages before a batch is made: a block is a few numbers that say where in their
bytes its columns lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from schema.codec import TRAINING_SAMPLES
from schema.records import I64, U8, SampleBlock
from trainer.columns import layout as at_
from trainer.columns.layout import Form


@dataclass(frozen=True, slots=True)
class Blocks:
    """b blocks: `table` i64 (b, FIELDS) and `slots` i64 (b, S, SLOT_FIELDS) speak of the bytes `data`."""

    form: Form
    data: U8
    table: I64
    slots: I64

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All blocks of `parts`, of which there is at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        table = np.concatenate([part.table for part in parts])
        slots = np.concatenate([part.slots for part in parts])
        pieces, block, size = [], 0, 0
        for part in parts:
            start, end = part.table[0, at_.AT_BLOCK], part.table[-1, at_.AT_END]
            mine = slice(block, block + len(part))
            table[mine, at_.PLACES :] += size - start
            slots[mine, :, : at_.SLOT_PLACES] += size - start
            pieces.append(part.data[start:end])
            block, size = block + len(part), size + int(end - start)
        return cls(parts[0].form, np.concatenate(pieces), table, slots)

    @property
    def first_event_time(self) -> int:
        """That of the first block, Unix ms."""
        return int(self.table[0, at_.EVENT_TIME])

    @property
    def rows(self) -> int:
        """How many all blocks have."""
        return int(self.table[:, at_.ROWS].sum())

    def reaching(self, rows: int) -> int:
        """How many blocks it takes to have so many rows: all, if they do not."""
        return min(len(self), int(np.searchsorted(np.cumsum(self.table[:, at_.ROWS]), rows)) + 1)

    def older(self, event_time: int, *, ties: bool) -> int:
        """How many come before the first that is not older; with `ties`, before the first that is newer."""
        times = self.table[:, at_.EVENT_TIME]
        newer = np.flatnonzero(times > event_time if ties else times >= event_time)
        return int(newer[0]) if len(newer) else len(self)

    def before(self, message: int, within: int) -> int:
        """How many lie before that place of their partition."""
        messages, places = self.table[:, at_.MESSAGE], self.table[:, at_.WITHIN]
        return int(np.count_nonzero((messages < message) | ((messages == message) & (places < within))))

    def place(self, number: int) -> tuple[int, int]:
        """Where one of them lies: the offset of its message, and its number there."""
        message, within = self.table[number, [at_.MESSAGE, at_.WITHIN]].tolist()
        return message, within

    def following(self, number: int) -> tuple[int, int]:
        """What place follows that of one of them."""
        message, within, last = self.table[number, [at_.MESSAGE, at_.WITHIN, at_.LAST]].tolist()
        return (message + 1, 0) if last else (message, within + 1)

    def part(self, start: int, stop: int) -> Self:
        """The blocks from `start` to `stop`."""
        return type(self)(self.form, self.data, self.table[start:stop], self.slots[start:stop])

    def chosen(self, blocks: I64) -> Self:
        """Those of numbers `blocks` (k,), in that order."""
        return type(self)(self.form, self.data, self.table[blocks], self.slots[blocks])

    def block(self, number: int) -> SampleBlock:
        """One of them as a record."""
        start, end = self.table[number, at_.AT_BLOCK], self.table[number, at_.AT_END]
        (record,) = TRAINING_SAMPLES.records(b"\x91" + self.data[start:end].tobytes())
        return record

    def mask(self, number: int) -> bytes:
        """u1 (n, T) of one of them."""
        start = int(self.table[number, at_.AT_MASK])
        size = int(self.table[number, at_.ROWS]) * self.form.task_count
        return self.data[start : start + size].tobytes()

    def row_indices(self, number: int) -> list[int]:
        """Those of the rows of one of them."""
        start = int(self.table[number, at_.AT_ROWS])
        column = self.data[start : start + 2 * int(self.table[number, at_.ROWS])]
        indices: list[int] = np.frombuffer(column.tobytes(), "<u2").tolist()
        return indices

    def with_idle_rows(self) -> set[int]:
        """The numbers of those with rows that have no known label."""
        idle = self.table[:, at_.IDLE_ROWS]
        return set(np.flatnonzero(idle).tolist()) if idle.any() else set()

    @property
    def busy_rows(self) -> int:
        """How many rows have a known label."""
        return self.rows - int(self.table[:, at_.IDLE_ROWS].sum())

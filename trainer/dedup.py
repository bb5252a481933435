"""Which (impression, task) pairs have been trained already. Pure.

A joiner that restarts emits again what it had emitted. A pair is known by the place of its feature log
(source partition, offset, index in the envelope), its row there and its task. Every block says below which
source offset everything was emitted before it, so what lies below the highest such word, the floor, is a
duplicate whatever it is, and needs no memory.

A late block is known by the place of the action that made it, too, and its word is about actions: late
blocks are filtered apart from the others, by the same rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec
import numpy as np

from trainer.columns import layout
from trainer.columns.blocks import Blocks

_WANTED: Final = [
    layout.PARTITION,
    layout.OFFSET,
    layout.INDEX,
    layout.RESOLVED_BELOW,
    layout.LATE_OFFSET,
    layout.ROWS,
    layout.AT_ROWS,
    layout.AT_MASK,
]
"""What the filter looks at."""
_ONE_ROW: Final = 2
"""Bytes of the row indices of a block with one row."""
_TRUTH: Final = bytes([0]) + bytes([1]) * 255
"""Translates any byte but 0 to 1."""


class SeenPairs(msgspec.Struct, frozen=True, array_like=True):
    """The pairs had of one feature log: bit (row * tasks + task) of a little-endian number."""

    offset: int
    index: int
    bits: bytes


class PartitionSeen(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one source partition, or (`late`) of the late blocks of one."""

    partition: int
    floor: int
    seen: tuple[SeenPairs, ...]
    late: bool = False


Lane = tuple[int, bool]
"""A source partition, and whether its late blocks are meant."""


@dataclass(slots=True)
class _Reading:
    """What a batch that is read but not trained yet has changed: bits as they were, and floors to come."""

    before: dict[tuple[Lane, int, int], int] = field(default_factory=dict)
    floors: dict[Lane, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Partition:
    """`seen`: the pairs had, by offset and index: byte (row * tasks + task) of a little-endian number is 1.

    `ahead` is the highest floor that was read, trained or not.
    """

    floor: int = 0
    ahead: int = 0
    seen: dict[int, dict[int, int]] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)

    def had_at(self, offset: int) -> dict[int, int]:
        had = self.seen.get(offset)
        if had is None:
            had = self.seen[offset] = {}
            heappush(self.offsets, offset)
        return had

    def raise_floor(self, floor: int) -> None:
        self.floor = max(self.floor, floor)
        while self.offsets and self.offsets[0] < self.floor:
            del self.seen[heappop(self.offsets)]


class DuplicateFilter:
    """Lets every (impression, task) pair pass once.

    Batches are read ahead of training: what `begin` opens belongs to one batch, in order, until `trained`
    closes the oldest. The state is that of the trained ones.
    """

    def __init__(self) -> None:
        self._partitions: dict[Lane, _Partition] = {}
        self._readings: deque[_Reading] = deque()

    def begin(self) -> None:
        """What passes from here on belongs to another batch."""
        self._readings.append(_Reading())

    def trained(self) -> None:
        """The oldest batch has been trained."""
        reading = self._readings.popleft()
        for lane, floor in reading.floors.items():
            self._partitions[lane].raise_floor(floor)

    def take(self, blocks: Blocks) -> dict[int, bytes]:
        """Take `blocks`: all that they say is known from here on.

        Returns the blocks, by number, that said something which was known before: u1 (n, T), 1 where a pair
        has a known label and was not had. All pairs of the others are new.
        """
        reading, repeated = self._readings[-1], {}
        view, tasks = blocks.data.data, blocks.form.task_count
        for number, block in enumerate(blocks.table[:, _WANTED].tolist()):
            source, offset, index, below, late, rows, at_rows, at_mask = block
            lane = (source, late >= 0)
            partition = self._partitions.get(lane)
            if partition is None:
                partition = self._partitions[lane] = _Partition()
            if late >= 0:
                # one message may hold actions on many requests
                offset, index = late, offset << 16 | index
            mask = bytes(view[at_mask : at_mask + rows * tasks]).translate(_TRUTH)
            if offset < partition.ahead:
                repeated[number] = bytes(len(mask))
            else:
                had = partition.had_at(offset)
                before = had.get(index, 0)
                reading.before.setdefault((lane, offset, index), before)
                fresh, had[index] = _take(mask, view[at_rows : at_rows + 2 * rows], tasks, before)
                if fresh != mask:
                    repeated[number] = fresh
            if below > partition.ahead:
                partition.ahead = reading.floors[lane] = below
        return repeated

    def state(self) -> tuple[PartitionSeen, ...]:
        """All that is remembered of the batches trained, for a checkpoint."""
        before: dict[tuple[Lane, int, int], int] = {}
        for reading in reversed(self._readings):
            before |= reading.before
        found = (
            PartitionSeen(lane[0], partition.floor, tuple(_pairs(lane, partition, before)), lane[1])
            for lane, partition in sorted(self._partitions.items())
        )
        return tuple(saved for saved in found if saved.floor or saved.seen)

    def restore(self, state: tuple[PartitionSeen, ...]) -> None:
        """Takes the place of whatever was remembered."""
        self._partitions = {}
        self._readings.clear()
        for saved in state:
            partition = self._partitions[saved.partition, saved.late] = _Partition(saved.floor, saved.floor)
            for pairs in saved.seen:
                had = partition.seen.setdefault(pairs.offset, {})
                had[pairs.index] = _spread(pairs.bits)
            partition.offsets = list(partition.seen)
            heapify(partition.offsets)


def _pairs(
    lane: Lane, partition: _Partition, before: dict[tuple[Lane, int, int], int]
) -> Iterator[SeenPairs]:
    for offset, had in sorted(partition.seen.items()):
        for index, now in sorted(had.items()):
            had_then = before.get((lane, offset, index), now)
            if had_then:
                yield SeenPairs(offset, index, _packed(had_then))


def _packed(pairs: int) -> bytes:
    """One bit for each byte of `pairs`."""
    ones = pairs.to_bytes((pairs.bit_length() + 7) // 8, "little")
    return np.packbits(np.frombuffer(ones, "u1"), bitorder="little").tobytes()


def _spread(bits: bytes) -> int:
    """What `_packed` packed."""
    return int.from_bytes(np.unpackbits(np.frombuffer(bits, "u1"), bitorder="little").tobytes(), "little")


def _take(mask: bytes, rows: memoryview, tasks: int, had: int) -> tuple[bytes, int]:
    """The pairs of `mask` u1 (n, T), 0 or 1, of `rows` <u2 (n,) not in `had`, and `had` with them."""
    if len(rows) == _ONE_ROW:
        shift = 8 * tasks * int.from_bytes(rows, "little")
        known = int.from_bytes(mask, "little")
        if not had:
            # all is new, as nearly always where a request has one row
            return mask, known << shift
        left = known & ~(had >> shift)
        return left.to_bytes(len(mask), "little"), had | left << shift
    numbers = np.frombuffer(rows, "<u2").tolist()
    if numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        shift = 8 * tasks * numbers[0]
        left = int.from_bytes(mask, "little") & ~(had >> shift)
        return left.to_bytes(len(mask), "little"), had | left << shift
    fresh = b""
    for at, row in enumerate(numbers):
        shift = 8 * tasks * row
        left = int.from_bytes(mask[at * tasks : (at + 1) * tasks], "little") & ~(had >> shift)
        had |= left << shift
        fresh += left.to_bytes(tasks, "little")
    return fresh, had

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

from schema.records import U8, SampleBlock

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

    def fresh(self, block: SampleBlock) -> U8:
        """1 where a pair of `block` has a known label and was not had before, shape (n, T); it now is had."""
        return np.frombuffer(self.take(block), "u1").reshape(len(block), -1)

    def take(self, block: SampleBlock) -> bytes:
        """As `fresh`, row after row."""
        lane, reading = (block.source.partition, block.late_offset >= 0), self._readings[-1]
        partition = self._partitions.get(lane)
        if partition is None:
            partition = self._partitions[lane] = _Partition()
        offset, index = _place(block)
        if offset < partition.ahead:
            fresh = bytes(len(block.mask))
        else:
            had = partition.had_at(offset)
            before = had.get(index, 0)
            reading.before.setdefault((lane, offset, index), before)
            fresh, had[index] = _take(block, before)
        if block.resolved_below > partition.ahead:
            partition.ahead = reading.floors[lane] = block.resolved_below
        return fresh

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


def _place(block: SampleBlock) -> tuple[int, int]:
    """The offset that `resolved_below` speaks of, and which of the requests there the block is about."""
    source = block.source
    if block.late_offset < 0:
        return source.offset, source.index
    # one message may hold actions on many requests
    return block.late_offset, source.offset << 16 | source.index


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


def _take(block: SampleBlock, had: int) -> tuple[bytes, int]:
    """The pairs of `block`, row after row, that are not in `had`, and `had` with them."""
    mask = block.mask.translate(_TRUTH)
    tasks = len(block.tasks)
    if not had and mask == block.mask and len(block.rows) == _ONE_ROW:
        # all is new, as nearly always where a request has one row
        known = int.from_bytes(mask, "little") << 8 * tasks * int.from_bytes(block.rows, "little")
        return mask, known
    rows = block.row_indices().tolist()
    if rows == list(range(rows[0], rows[0] + len(rows))):
        shift = 8 * tasks * rows[0]
        known = int.from_bytes(mask, "little")
        left = known & ~(had >> shift)
        return left.to_bytes(len(mask), "little"), had | left << shift
    fresh = b""
    for at, row in enumerate(rows):
        shift = 8 * tasks * row
        left = int.from_bytes(mask[at * tasks : (at + 1) * tasks], "little") & ~(had >> shift)
        had |= left << shift
        fresh += left.to_bytes(tasks, "little")
    return fresh, had

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

import msgspec
import numpy as np

from schema.records import F32, SampleBlock


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
    floor: int = 0
    seen: dict[int, dict[int, int]] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)

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

    def fresh(self, block: SampleBlock) -> F32:
        """1 where a pair of `block` has a known label and was not had before, shape (n, T); it now is had."""
        lane, reading = (block.source.partition, block.late_offset >= 0), self._readings[-1]
        partition = self._partitions.setdefault(lane, _Partition())
        offset, index = _place(block)
        if offset < max(partition.floor, *(r.floors.get(lane, 0) for r in self._readings)):
            fresh = np.zeros((len(block), len(block.tasks)), np.float32)
        else:
            had = partition.seen.get(offset, {}).get(index, 0)
            reading.before.setdefault((lane, offset, index), had)
            fresh = _take(partition, block)
        floors = reading.floors
        floors[lane] = max(floors.get(lane, 0), block.resolved_below)
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
            partition = self._partitions[saved.partition, saved.late] = _Partition(saved.floor)
            for pairs in saved.seen:
                had = partition.seen.setdefault(pairs.offset, {})
                had[pairs.index] = int.from_bytes(pairs.bits, "little")
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
            bits = before.get((lane, offset, index), now)
            if bits:
                yield SeenPairs(offset, index, bits.to_bytes((bits.bit_length() + 7) // 8, "little"))


def _take(partition: _Partition, block: SampleBlock) -> F32:
    offset, index = _place(block)
    had = partition.seen.get(offset)
    if had is None:
        had = partition.seen[offset] = {}
        heappush(partition.offsets, offset)
    bits = had.get(index, 0)
    tasks = len(block.tasks)
    fresh = bytearray(len(block.mask))
    rows = block.row_indices().tolist()
    for at, known in enumerate(block.mask):
        if known:
            bit = 1 << rows[at // tasks] * tasks + at % tasks
            fresh[at] = not bits & bit
            bits |= bit
    had[index] = bits
    return np.frombuffer(fresh, "u1").reshape(len(block), tasks).astype(np.float32)

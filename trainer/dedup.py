"""Which (impression, task) pairs have been trained already. Pure.

A joiner that restarts emits again what it had emitted. A pair is known by the place of its feature log
(source partition, offset, index in the envelope), its row there and its task. Every block says below which
source offset everything was emitted before it, so what lies below the highest such word, the floor, is a
duplicate whatever it is, and needs no memory.

A late block is known by the place of the action that made it, too, and its word is about actions: late
blocks are filtered apart from the others, by the same rules.
"""

from __future__ import annotations

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
    """Lets every (impression, task) pair pass once."""

    def __init__(self) -> None:
        self._partitions: dict[tuple[int, bool], _Partition] = {}

    def fresh(self, block: SampleBlock) -> F32:
        """1 where a pair of `block` has a known label and was not had before, shape (n, T); it now is had."""
        late = block.late_offset >= 0
        partition = self._partitions.setdefault((block.source.partition, late), _Partition())
        if _place(block)[0] < partition.floor:
            fresh = np.zeros((len(block), len(block.tasks)), np.float32)
        else:
            fresh = _take(partition, block)
        partition.raise_floor(block.resolved_below)
        return fresh

    def state(self) -> tuple[PartitionSeen, ...]:
        """All that is remembered, for a checkpoint."""
        return tuple(
            PartitionSeen(
                number,
                partition.floor,
                tuple(
                    SeenPairs(offset, index, bits.to_bytes((bits.bit_length() + 7) // 8, "little"))
                    for offset, had in sorted(partition.seen.items())
                    for index, bits in sorted(had.items())
                ),
                late,
            )
            for (number, late), partition in sorted(self._partitions.items())
        )

    def restore(self, state: tuple[PartitionSeen, ...]) -> None:
        """Takes the place of whatever was remembered."""
        self._partitions = {}
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

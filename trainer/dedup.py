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
from trainer.columns import layout as at_
from trainer.columns.blocks import Blocks

_WANTED: Final = [at_.PARTITION, at_.OFFSET, at_.INDEX, at_.RESOLVED_BELOW, at_.LATE_OFFSET]
"""What the filter looks at."""
_PLAIN_TASKS: Final = 7
"""So many have room in a number of 64 bits, one byte each."""
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
    """What a batch that is read but not trained yet has changed: bits as they were, and floors to come.

    `new` are the requests of which nothing was known; should they come again, `before` has them, too, and
    what it says does not count.
    """

    new: list[tuple[Lane, int, int]] = field(default_factory=list)
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
        """Take one block; 1 where it has a known label that was not had before, shape (n, T)."""
        source = block.source
        what = [source.partition, source.offset, source.index, block.resolved_below, block.late_offset]
        fresh = self._take(what, block.row_indices().tolist(), block.mask.translate(_TRUTH))
        return np.frombuffer(fresh, "u1").reshape(len(block), -1)

    def take(self, blocks: Blocks) -> dict[int, bytes]:
        """Take `blocks`: all that they say is known from here on.

        Returns the blocks, by number, that said something which was known before: u1 (n, T), 1 where a pair
        has a known label and was not had. All pairs of the others are new.
        """
        if self._is_plain(blocks):
            return self._take_plain(blocks)
        repeated: dict[int, bytes] = {}
        for number, block in enumerate(blocks.table[:, _WANTED].tolist()):
            mask = blocks.mask(number).translate(_TRUTH)
            fresh = self._take(block, blocks.row_indices(number), mask)
            if fresh != mask:
                repeated[number] = fresh
        return repeated

    def _is_plain(self, blocks: Blocks) -> bool:
        """Whether `blocks` are as nearly always: of one lane, none late or too late, of one row each."""
        table = blocks.table
        partition, offsets, below = (
            table[:, at_.PARTITION],
            table[:, at_.OFFSET],
            table[:, at_.RESOLVED_BELOW],
        )
        if (partition != partition[0]).any() or (table[:, at_.LATE_OFFSET] >= 0).any():
            return False
        if (table[:, at_.ROWS] != 1).any() or blocks.form.task_count > _PLAIN_TASKS:
            return False
        ahead = np.maximum.accumulate(below)
        known = self._partitions.get((int(partition[0]), False))
        return (known is None or offsets.min() >= known.ahead) and not (offsets[1:] < ahead[:-1]).any()

    def _take_plain(self, blocks: Blocks) -> dict[int, bytes]:
        """As `take`. Of most requests nothing was known, so that their blocks cost little."""
        table, reading = blocks.table, self._readings[-1]
        lane, repeated = (int(table[0, at_.PARTITION]), False), {}
        partition = self._partitions.setdefault(lane, _Partition())
        pairs = _pairs_of_rows(blocks)
        for number, (offset, index) in enumerate(table[:, [at_.OFFSET, at_.INDEX]].tolist()):
            had = partition.had_at(offset)
            if index not in had:
                had[index] = pairs[number]
                reading.new.append((lane, offset, index))
                continue
            mask = blocks.mask(number).translate(_TRUTH)
            fresh = self._left(lane, offset, index, blocks.row_indices(number), mask)
            if fresh != mask:
                repeated[number] = fresh
        self._raise(lane, int(table[:, at_.RESOLVED_BELOW].max()))
        return repeated

    def _take(self, block: list[int], rows: list[int], mask: bytes) -> bytes:
        """Take one block, of which `block` has what is wanted; its pairs, u1 (n, T), that were not had."""
        source, offset, index, below, late = block
        lane = (source, late >= 0)
        if late >= 0:
            # one message may hold actions on many requests
            offset, index = late, offset << 16 | index
        partition = self._partitions.setdefault(lane, _Partition())
        fresh = bytes(len(mask)) if offset < partition.ahead else self._left(lane, offset, index, rows, mask)
        self._raise(lane, below)
        return fresh

    def _left(self, lane: Lane, offset: int, index: int, rows: list[int], mask: bytes) -> bytes:
        """The pairs of `mask` u1 (n, T) of some rows of one request that were not had; now they are."""
        had = self._partitions[lane].had_at(offset)
        before = had.get(index, 0)
        self._readings[-1].before.setdefault((lane, offset, index), before)
        fresh, had[index] = _take(mask, rows, before)
        return fresh

    def _raise(self, lane: Lane, below: int) -> None:
        """Everything of a source offset below this was emitted."""
        partition = self._partitions[lane]
        if below > partition.ahead:
            partition.ahead = self._readings[-1].floors[lane] = below

    def state(self) -> tuple[PartitionSeen, ...]:
        """All that is remembered of the batches trained, for a checkpoint."""
        before: dict[tuple[Lane, int, int], int] = {}
        for reading in reversed(self._readings):
            before |= reading.before
            before |= dict.fromkeys(reading.new, 0)
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


def _pairs_of_rows(blocks: Blocks) -> list[int]:
    """The known pairs of blocks of one row each, and few tasks, as `_Partition` has them."""
    data, table, tasks = blocks.data, blocks.table, blocks.form.task_count
    known = data[table[:, at_.AT_MASK, None] + np.arange(tasks)] > 0
    pairs = known @ (1 << 8 * np.arange(tasks))
    rows = data[table[:, at_.AT_ROWS, None] + np.arange(2)] @ np.array([1, 256])
    return [
        row_pairs << 8 * tasks * row for row_pairs, row in zip(pairs.tolist(), rows.tolist(), strict=True)
    ]


def _take(mask: bytes, rows: list[int], had: int) -> tuple[bytes, int]:
    """The pairs of `mask` u1 (n, T), 0 or 1, of `rows` (n,) that are not in `had`, and `had` with them."""
    tasks = len(mask) // len(rows)
    if rows == list(range(rows[0], rows[0] + len(rows))):
        shift = 8 * tasks * rows[0]
        left = int.from_bytes(mask, "little") & ~(had >> shift)
        return left.to_bytes(len(mask), "little"), had | left << shift
    fresh = b""
    for at, row in enumerate(rows):
        shift = 8 * tasks * row
        left = int.from_bytes(mask[at * tasks : (at + 1) * tasks], "little") & ~(had >> shift)
        had |= left << shift
        fresh += left.to_bytes(tasks, "little")
    return fresh, had

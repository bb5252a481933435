"""What changed in a shard since a clock, as checksummed chunks, and the proof that a delta is whole.

Values only: knows no table and no network. A delta names where it starts and ends; its chunks' checksums
cover that too, so that a chunk of another delta, or out of its place, is noticed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from parameter_server.errors import DeltaError
from schema.records import F32, I64, U64


class Trace(NamedTuple):
    """One applied push: the shard's clock after it, the trainer's step, and what it had learned from.

    completed_at int64 (n,): wall-clock milliseconds of some of its samples, as `schema.stages` packs them.
    """

    clock: int
    step: int
    completed_at: I64


class ShardState(NamedTuple):
    """Where a shard stands: the epoch drawn at its start, its clock, and each trainer's last step."""

    epoch: int
    clock: int
    steps: dict[str, int]


class Changes(NamedTuple):
    """One table's rows, ids (n,) and vectors (n, dim), and its removed ids (m,)."""

    ids: U64
    vectors: F32
    removed: U64


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some changes of one table: rows ids (n,), vectors (n, dim); removed ids (m,)."""

    table: str
    sequence: int
    ids: U64
    vectors: F32
    removed: U64
    checksum: int


@dataclass(frozen=True, slots=True)
class Span:
    """What a delta leads from and to, in one epoch of one shard. A full one replaces all that was there."""

    shard: int
    epoch: int
    from_clock: int
    to_clock: int
    full: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows and tombstones of a shard with from_clock < version <= to_clock of `epoch`, as of to_clock.

    `steps` is the last step of each trainer that it contains; `traces` are the pushes behind it, the newest
    few thousand at most. Removals come before rows: an id that was removed and came back is in both.
    """

    span: Span
    steps: Mapping[str, int]
    traces: tuple[Trace, ...]
    count: int
    chunks: tuple[Chunk, ...]

    @property
    def shard(self) -> int:
        """The shard that it is of."""
        return self.span.shard

    @property
    def epoch(self) -> int:
        """The epoch that it is of."""
        return self.span.epoch

    @property
    def from_clock(self) -> int:
        """The clock that a replica must stand at, unless it is full."""
        return self.span.from_clock

    @property
    def to_clock(self) -> int:
        """The clock that a replica then stands at."""
        return self.span.to_clock

    @property
    def full(self) -> bool:
        """Whether it holds all rows, and replaces what the replica has of the shard."""
        return self.span.full

    @property
    def rows(self) -> int:
        """How many rows it carries."""
        return sum(len(chunk.ids) for chunk in self.chunks)


def cut(span: Span, changes: Mapping[str, Changes], rows_per_chunk: Mapping[str, int]) -> Iterator[Chunk]:
    """The chunks of `changes` by table, removals first, at most rows_per_chunk[table] rows or ids each."""
    sequence = 0
    for table, change in changes.items():
        size = rows_per_chunk[table]
        for start in range(0, len(change.removed), size):
            removed = change.removed[start : start + size]
            yield sealed(span, table, sequence, Changes(change.ids[:0], change.vectors[:0], removed))
            sequence += 1
    for table, change in changes.items():
        size = rows_per_chunk[table]
        for start in range(0, len(change.ids), size):
            part = slice(start, start + size)
            yield sealed(
                span, table, sequence, Changes(change.ids[part], change.vectors[part], change.removed[:0])
            )
            sequence += 1


def sealed(span: Span, table: str, sequence: int, part: Changes) -> Chunk:
    """A chunk with its checksum."""
    ids, vectors, removed = part
    return Chunk(table, sequence, ids, vectors, removed, _checksum(span, table, sequence, part))


def _checksum(span: Span, table: str, sequence: int, part: Changes) -> int:
    place = f"{span}{table}/{sequence}/{len(part.ids)}/{len(part.removed)}"
    crc = zlib.crc32(place.encode())
    for column in part:
        crc = zlib.crc32(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data, crc)
    return crc


def verify(delta: Delta, widths: Mapping[str, int]) -> None:
    """Check that `delta` is whole and unaltered.

    Args:
        delta: as it arrived.
        widths: the vector width of every table.

    Raises:
        DeltaError: a chunk is missing, repeated, out of order, damaged, or of an unknown table or width.
    """
    where = f"delta of shard {delta.shard} to clock {delta.to_clock}"
    if len(delta.chunks) != delta.count:
        raise DeltaError(f"{where}: {len(delta.chunks)} chunks; legal is {delta.count}")
    for place, chunk in enumerate(delta.chunks):
        if chunk.sequence != place:
            raise DeltaError(f"{where}: chunk {chunk.sequence} at place {place}; legal is {place}")
        width = widths.get(chunk.table)
        if width is None:
            raise DeltaError(f"{where}: table {chunk.table!r}; legal are {', '.join(widths)}")
        if len(chunk.ids) and chunk.vectors.shape != (len(chunk.ids), width):
            raise DeltaError(
                f"{where}: vectors {chunk.vectors.shape} of table {chunk.table}; "
                f"legal is {(len(chunk.ids), width)}"
            )
        part = Changes(chunk.ids, chunk.vectors, chunk.removed)
        if _checksum(delta.span, chunk.table, chunk.sequence, part) != chunk.checksum:
            raise DeltaError(f"{where}: chunk {place} of table {chunk.table} does not match its checksum")

"""What changed in a shard since a clock, as checksummed chunks, and the proof that a delta is whole.

Values only: knows no table and no network. Chunks are applied in order. Their checksums cover the delta that
they are of (by a random number of its own) and their place in it; the seal covers where it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from crc32c import crc32c

from parameter_server.errors import DeltaError
from schema.records import F32, I64, U64


class Trace(NamedTuple):
    """One applied push: the shard's clock after it, whose step it was, and what that had learned from.

    completed_at int64 (n,): wall-clock milliseconds of some of its samples, as `schema.stages` packs them.
    """

    clock: int
    trainer: str
    step: int
    completed_at: I64


class ShardState(NamedTuple):
    """Where a shard stands: the epoch drawn at its start, its clock, and each trainer's last step."""

    epoch: int
    clock: int
    steps: dict[str, int]


class Changes(NamedTuple):
    """One table's rows, ids (n,) and packed vectors (n, width), and its removed ids (m,)."""

    ids: U64
    vectors: F32
    removed: U64


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some changes of one table: removed ids (m,), and rows ids (n,), packed vectors (n, width)."""

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
    nonce: int = 0

    @property
    def start(self) -> tuple[int, int, int, bool, int]:
        """All of it but where it leads to, which is not known before the last chunk is made."""
        return self.shard, self.epoch, self.from_clock, self.full, self.nonce


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows and tombstones of a shard with from_clock < version <= to_clock of `epoch`, as of to_clock.

    `steps` is the last step of each trainer that it contains; `traces` are the pushes behind it, the newest
    few thousand at most. An id may be in several chunks; in each, removals come before rows, and only after
    the last chunk is it the shard at to_clock.
    """

    span: Span
    steps: Mapping[str, int]
    traces: tuple[Trace, ...]
    count: int
    chunks: tuple[Chunk, ...]
    seal: int = 0

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


def sealed(span: Span, table: str, sequence: int, part: Changes) -> Chunk:
    """A chunk with its checksum."""
    ids, vectors, removed = part
    return Chunk(table, sequence, ids, vectors, removed, _checksum(span, table, sequence, part))


def _checksum(span: Span, table: str, sequence: int, part: Changes) -> int:
    place = f"{span.start}{table}/{sequence}/{len(part.ids)}/{len(part.removed)}"
    crc = crc32c(place.encode())
    for column in part:
        crc = crc32c(np.ascontiguousarray(column).reshape(-1).view(np.uint8).data, crc)
    return crc


def seal_of(delta: Delta, checksums: Sequence[int]) -> int:
    """The checksum over all of `delta` and the checksums of its chunks."""
    crc = crc32c(f"{delta.span}{sorted(delta.steps.items())}/{delta.count}".encode())
    for trace in delta.traces:
        crc = crc32c(f"{trace.clock}/{trace.trainer}/{trace.step}".encode(), crc)
        crc = crc32c(trace.completed_at.tobytes(), crc)
    return crc32c(np.array(checksums, "<u4").tobytes(), crc)


def verify(delta: Delta, widths: Mapping[str, int]) -> None:
    """Check that `delta` is whole and unaltered.

    Args:
        delta: as it arrived.
        widths: the packed width of every table.

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
    if seal_of(delta, [chunk.checksum for chunk in delta.chunks]) != delta.seal:
        raise DeltaError(f"{where}: does not match its seal")

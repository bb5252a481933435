"""Places in the samples topic, and what lies at them. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from schema.records import F32, I64, DeadLetter, Features, SampleBlock
from schema.stages import trace_of

_RETRACT: Final = attrgetter("retract")


class Position(NamedTuple):
    """A place in a partition: the offset of a message, and the number of a block within its envelope."""

    offset: int
    within: int = 0


class Run(NamedTuple):
    """A stretch of a partition: the blocks from `start` on, up to but without `end`."""

    partition: int
    start: Position
    end: Position


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What lies at one position: a block, a dead letter, or (an envelope without records) neither.

    `joined_at`: when the message was made, Unix ms; 0 where that is not known.
    """

    partition: int
    position: Position
    following: Position
    block: SampleBlock | None = None
    dead: DeadLetter | None = None
    joined_at: int = 0


class Piece(msgspec.Struct, frozen=True, gc=False):
    """The n rows of one block that are to be trained, in columns as SampleBlock has them.

    Bytes, since a batch has hundreds of pieces: `Rows` makes arrays of all of them at once. `mask` u1 (n, T)
    says which pairs are left. `late`: the rows have been trained before, and are here for what became known
    of them since. `joined_at` is when its message was made, Unix ms. `trace` as `schema.stages`
    has it.
    """

    user_id: int
    surface: int
    event_time: int
    completed_at: int
    items: bytes
    positions: bytes
    features: Features
    labels: bytes
    mask: bytes
    log_keep: bytes
    retract: bytes = b""
    late: bool = False
    joined_at: int = 0
    trace: int = 0

    def __len__(self) -> int:
        return len(self.items) // 8


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of several pieces, one after the other."""

    pieces: Sequence[Piece]

    def counts(self) -> I64:
        """How many rows each piece has, shape (pieces,)."""
        return np.array([len(p.items) for p in self.pieces], np.int64) // 8

    def items(self) -> I64:
        """Shape (n,)."""
        return np.frombuffer(b"".join([p.items for p in self.pieces]), "<i8")

    def positions(self) -> I64:
        """Shape (n,)."""
        return np.frombuffer(b"".join([p.positions for p in self.pieces]), "<u2").astype(np.int64)

    def labels(self) -> F32:
        """Shape (n, T). Labels that do not count are kept within 0 to 1 (0 for NaN), whatever they were."""
        labels: F32 = self._by_task([p.labels for p in self.pieces], "<f4")
        return np.fmin(np.fmax(labels, 0), 1)

    def mask(self) -> F32:
        """1 where a pair is to be trained, shape (n, T)."""
        return self._by_task([p.mask for p in self.pieces], "u1").astype(np.float32)

    def newly_known(self) -> F32:
        """As `mask`, but 0 for the late rows, which were counted before."""
        return self._by_task([bytes(len(p.mask)) if p.late else p.mask for p in self.pieces], "u1").astype(
            np.float32
        )

    def retract(self) -> F32 | None:
        """1 where a pair takes back the negative that it was, shape (n, T); None where none does."""
        if not any(map(_RETRACT, self.pieces)):
            return None
        retract = self._by_task([p.retract or bytes(len(p.mask)) for p in self.pieces], "u1") * self.mask()
        return retract if retract.any() else None

    def log_keep(self) -> F32:
        """Shape (n,)."""
        return np.frombuffer(b"".join([p.log_keep for p in self.pieces]), "<f4").copy()

    def weights(self) -> F32:
        """What each row counts for in the evaluation, shape (n,): one over the chance of having been kept.

        Where nobody engaged, that is; rows with a positive label are all kept.
        """
        engaged = self.labels().max(axis=1) > 0
        weights: F32 = np.where(engaged, 1, np.exp(-self.log_keep())).astype(np.float32)
        return weights

    def each(self, values: Sequence[int]) -> I64:
        """`values`, one a piece, for each row, shape (n,)."""
        return np.repeat(np.array(values, np.int64), self.counts())

    def _by_task(self, parts: list[bytes], dtype: str) -> NDArray[Any]:
        """The matrix (n, T)."""
        rows = int(self.counts().sum())
        return np.frombuffer(b"".join(parts), dtype).reshape(rows, -1)


def piece(block: SampleBlock, mask: bytes, joined_at: int = 0) -> Piece | None:
    """The rows of `block` for which `mask` u1 (n, T) has a pair left, or None where it has none.

    `joined_at`: when it was emitted, Unix ms; 0 where that is not known.
    """
    if 0 in mask:
        keep: NDArray[np.bool_] = np.logical_or.reduce(
            np.frombuffer(mask, "u1").reshape(len(block), -1) > 0, axis=1
        )
        if not keep.all():
            return _some(block, mask, keep, joined_at) if keep.any() else None
    return _piece(block, mask, joined_at)


def _piece(block: SampleBlock, mask: bytes, joined_at: int) -> Piece:
    return Piece(
        block.user_id,
        block.surface,
        block.event_time,
        block.completed_at,
        block.items,
        block.positions,
        block.features,
        block.labels,
        mask,
        block.log_keep,
        block.retract,
        block.late_offset >= 0,
        joined_at or block.completed_at,
        trace_of(block.request_id),
    )


def _some(block: SampleBlock, mask: bytes, keep: NDArray[np.bool_], joined_at: int) -> Piece:
    """The rows of `block` where `keep` (n,), which is not all of them."""

    def kept(data: bytes) -> bytes:
        return np.frombuffer(data, "u1").reshape(len(keep), -1)[keep].tobytes() if data else b""

    narrowed = msgspec.structs.replace(
        block,
        items=kept(block.items),
        positions=kept(block.positions),
        features=block.features.narrowed(np.flatnonzero(keep).tolist(), len(block)),
        labels=kept(block.labels),
        log_keep=kept(block.log_keep),
        retract=kept(block.retract),
    )
    return _piece(narrowed, kept(mask), joined_at)

"""Rows that were put together by hand, one request at a time, instead of being read from the topic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.batch import Batch, Collator, Shown
from models.gather import column_of
from schema.records import F32, I64, U64, Features, IdColumn, SampleBlock
from schema.stages import trace_of
from trainer.rows import Moments, Rows


class Piece(msgspec.Struct, frozen=True, gc=False):
    """The n rows of one request that are to be trained, in columns as SampleBlock has them.

    `mask` u1 (n, T) says which pairs are left. `late`: the rows have been trained before, and are here for
    what became known of them since. `joined_at` is when its message was made, Unix ms. `trace` as
    `schema.stages` has it.
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
    propensities: bytes = b""

    def __len__(self) -> int:
        return len(self.items) // 8


class PieceRows(Rows):
    """The rows of several pieces, of which there is at least one, one after the other."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    def counts(self) -> I64:
        """See Rows."""
        return np.array([len(p.items) for p in self._pieces], np.int64) // 8

    def items(self) -> I64:
        """See Rows."""
        return np.frombuffer(b"".join([p.items for p in self._pieces]), "<i8")

    def labels(self) -> F32:
        """See Rows."""
        labels: F32 = self._by_task([p.labels for p in self._pieces], "<f4")
        return np.fmin(np.fmax(labels, 0), 1)

    def mask(self) -> F32:
        """See Rows."""
        return self._by_task([p.mask for p in self._pieces], "u1").astype(np.float32)

    def retract(self) -> F32 | None:
        """See Rows."""
        parts = [p.retract or bytes(len(p.mask)) for p in self._pieces]
        retract = self._by_task(parts, "u1") * self.mask()
        return retract if retract.any() else None

    def log_keep(self) -> F32:
        """See Rows."""
        return np.frombuffer(b"".join([p.log_keep for p in self._pieces]), "<f4").copy()

    def propensities(self) -> F32 | None:
        """See Rows."""
        if not any(p.propensities for p in self._pieces):
            return None
        parts = [p.propensities or bytes(4 * len(p)) for p in self._pieces]
        return np.frombuffer(b"".join(parts), "<f4").copy()

    def late(self) -> I64:
        """See Rows."""
        return np.array([p.late for p in self._pieces], np.int64)

    def event_times(self) -> I64:
        """See Rows."""
        return np.array([p.event_time for p in self._pieces], np.int64)

    def users(self) -> I64:
        """See Rows."""
        return np.array([p.user_id for p in self._pieces], np.int64)

    def surfaces(self) -> I64:
        """See Rows."""
        return np.array([p.surface for p in self._pieces], np.int64)

    def moments(self, requests: Sequence[int]) -> list[Moments]:
        """See Rows."""
        chosen = [self._pieces[request] for request in requests]
        return [Moments(p.event_time, p.completed_at, p.joined_at) for p in chosen]

    def traces(self) -> I64:
        """See Rows."""
        return np.array([p.trace for p in self._pieces], np.int64)

    def context_ids(self, slot: int, requests: I64) -> tuple[U64, I64]:
        """See Rows."""
        chosen = [self._pieces[i] for i in requests.tolist()]
        return _ids([(column_of(slot, p.features.context), 1) for p in chosen])

    def item_ids(self, slot: int) -> tuple[U64, I64]:
        """See Rows."""
        return _ids([(column_of(slot, p.features.items), len(p)) for p in self._pieces])

    def collated(self, collator: Collator) -> Batch:
        """See Rows."""
        places = np.frombuffer(b"".join([p.positions for p in self._pieces]), "<u2").astype(np.int64)
        shown = Shown(places, self.surfaces())
        return collator.collate([p.features for p in self._pieces], self.counts(), shown)

    def _by_task(self, parts: list[bytes], dtype: str) -> NDArray[Any]:
        """The matrix (n, T)."""
        return np.frombuffer(b"".join(parts), dtype).reshape(int(self.counts().sum()), -1)


def piece(block: SampleBlock, mask: bytes, joined_at: int = 0) -> Piece | None:
    """The rows of `block` for which `mask` u1 (n, T) has a pair left, or None where it has none.

    `joined_at`: when it was emitted, Unix ms; 0 where that is not known.
    """
    kept = narrowed(block, mask)
    if kept is None:
        return None
    return Piece(
        kept.user_id,
        kept.surface,
        kept.event_time,
        kept.completed_at,
        kept.items,
        kept.positions,
        kept.features,
        kept.labels,
        kept.mask,
        kept.log_keep,
        kept.retract,
        kept.late_offset >= 0,
        joined_at or kept.completed_at,
        trace_of(kept.request_id),
        kept.propensities,
    )


def narrowed(block: SampleBlock, mask: bytes) -> SampleBlock | None:
    """`block` with `mask` u1 (n, T) for its own, and only the rows that have a pair; None if none has."""
    pairs = np.frombuffer(mask, "u1").reshape(len(block), -1)
    keep: NDArray[np.bool_] = np.logical_or.reduce(pairs > 0, axis=1)
    if keep.all():
        return msgspec.structs.replace(block, mask=bytes(mask))
    if not keep.any():
        return None

    def kept(data: bytes) -> bytes:
        return np.frombuffer(data, "u1").reshape(len(keep), -1)[keep].tobytes() if data else b""

    return msgspec.structs.replace(
        block,
        rows=kept(block.rows),
        items=kept(block.items),
        positions=kept(block.positions),
        features=block.features.narrowed(np.flatnonzero(keep).tolist(), len(block)),
        labels=kept(block.labels),
        mask=kept(mask),
        log_keep=kept(block.log_keep),
        scores=b"",
        retract=kept(block.retract),
        propensities=kept(block.propensities),
    )


def _ids(columns: list[tuple[IdColumn | None, int]]) -> tuple[U64, I64]:
    """All ids of some columns, each with its number of rows, and how many each row has."""
    nothing = np.empty(0, np.uint64)
    values = [nothing if c is None else c.values() for c, _ in columns]
    lengths = [np.zeros(rows, np.int64) if c is None else c.row_lengths(rows) for c, rows in columns]
    return np.concatenate([nothing, *values]), np.concatenate([np.empty(0, np.int64), *lengths])

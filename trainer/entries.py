"""Places in the samples topic, and what lies at them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schema.records import F32, I64, U16, DeadLetter, Features, IdColumn, SampleBlock


class Position(NamedTuple):
    """A place in a partition: the offset of a message, and the number of a block within its envelope."""

    offset: int
    within: int = 0


class Run(NamedTuple):
    """A stretch of a partition: the blocks from `start` on, up to but without `end`."""

    partition: int
    start: Position
    end: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at one position: a block, a dead letter, or (an envelope without records) neither."""

    partition: int
    position: Position
    following: Position
    block: SampleBlock | None = None
    dead: DeadLetter | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The n rows of one block that are to be trained.

    items, positions (n,); labels and mask f32 (n, T); log_keep f32 (n,).
    """

    user_id: int
    surface: int
    event_time: int
    completed_at: int
    items: I64
    positions: U16
    features: Features
    labels: F32
    mask: F32
    log_keep: F32


def piece(block: SampleBlock, mask: F32) -> Piece | None:
    """The rows of `block` for which `mask` f32 (n, T) has a pair left, or None where it has none.

    Labels that do not count are 0, whatever they were.
    """
    keep = np.logical_or.reduce(mask > 0, axis=1)
    if not keep.any():
        return None
    labels = np.where(mask > 0, block.label_matrix(), np.float32(0))
    rows = slice(None) if keep.all() else keep
    return Piece(
        block.user_id,
        block.surface,
        block.event_time,
        block.completed_at,
        block.item_ids()[rows],
        block.position_values()[rows],
        block.features if keep.all() else _kept(block.features, keep),
        labels[rows],
        mask[rows],
        np.frombuffer(block.log_keep, "<f4")[rows],
    )


def _kept(features: Features, keep: NDArray[np.bool_]) -> Features:
    items = tuple(_kept_column(column, keep) for column in features.items)
    dense = np.frombuffer(features.item_dense, "<f4").reshape(len(keep), -1)[keep].tobytes()
    return Features(features.context, items, features.context_dense, dense)


def _kept_column(column: IdColumn, keep: NDArray[np.bool_]) -> IdColumn:
    ids = column.values()[np.repeat(keep, column.row_lengths(len(keep)))].tobytes()
    lengths = np.frombuffer(column.lengths, "<u2")[keep].tobytes() if column.lengths else b""
    return IdColumn(column.slot, ids, lengths)

"""Places in the samples topic, and what lies at them. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from schema.records import F32, I64, U16, DeadLetter, Features, SampleBlock
from schema.stages import trace_of


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
    """What lies at one position: a block, a dead letter, or (an envelope without records) neither.

    `joined_at`: when the message was made, Unix ms; 0 where that is not known.
    """

    partition: int
    position: Position
    following: Position
    block: SampleBlock | None = None
    dead: DeadLetter | None = None
    joined_at: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """The n rows of one block that are to be trained.

    items, positions (n,); labels, mask and retract f32 (n, T); log_keep f32 (n,). `late`: the rows have been
    trained before, and are here for what became known of them since. `trace` as `schema.stages` has it.
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
    retract: F32
    late: bool = False
    joined_at: int = 0
    trace: int = 0


def piece(block: SampleBlock, mask: F32, joined_at: int = 0) -> Piece | None:
    """The rows of `block` for which `mask` f32 (n, T) has a pair left, or None where it has none.

    `joined_at`: when it was emitted, Unix ms; 0 where that is not known. Labels that do not count are kept
    within 0 to 1, whatever they were.
    """
    keep = np.logical_or.reduce(mask > 0, axis=1)
    if not keep.any():
        return None
    labels = np.nan_to_num(block.label_matrix()).clip(0, 1)
    retract = block.retract_matrix() * mask
    rows = slice(None) if keep.all() else keep
    return Piece(
        block.user_id,
        block.surface,
        block.event_time,
        block.completed_at,
        block.item_ids()[rows],
        block.position_values()[rows],
        block.features if keep.all() else block.features.narrowed(np.flatnonzero(keep).tolist(), len(block)),
        labels[rows],
        mask[rows],
        np.frombuffer(block.log_keep, "<f4")[rows],
        retract[rows],
        block.late_offset >= 0,
        joined_at or block.completed_at,
        trace_of(block.request_id),
    )

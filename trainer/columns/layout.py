"""Where a block's fields stand in the rows of numbers that stand for it, and what a message has to have.

Values only. A block is a row of `FIELDS` integers, and one of `SLOT_FIELDS` for every slot. Those that say
where bytes lie are indices into the bytes of the messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec
import numpy as np

from schema.config import FeaturesConfig
from schema.records import I64, U8

(
    PARTITION,
    OFFSET,
    INDEX,
    RESOLVED_BELOW,
    COMPLETED_AT,
    USER,
    EVENT_TIME,
    SURFACE,
    LATE_OFFSET,
    ROWS,
    REQUEST_ID_SIZE,
    JOINED_AT,
    RETRACTS,
    IDLE_ROWS,
    MESSAGE,
    WITHIN,
    LAST,
    TRACE,
    PROPENSITIES,
) = range(19)
"""As SampleBlock has them; ROWS is how many there are, RETRACTS and PROPENSITIES whether there is
such a column.

MESSAGE is the offset of its message, WITHIN its number there, LAST whether there is none behind it. TRACE is
as `schema.stages.trace_of` has it.

JOINED_AT is when its message was made, Unix ms, COMPLETED_AT where that is not known; IDLE_ROWS is how many
rows have no known label."""

PLACES: Final = 19
(
    AT_BLOCK,
    AT_END,
    AT_REQUEST_ID,
    AT_ROWS,
    AT_ITEMS,
    AT_POSITIONS,
    AT_LABELS,
    AT_MASK,
    AT_LOG_KEEP,
    AT_RETRACT,
    AT_CONTEXT_DENSE,
    AT_ITEM_DENSE,
    AT_PROPENSITIES,
) = range(PLACES, PLACES + 13)
"""Where its bytes begin and end, and where those of its columns begin."""

FIELDS: Final = PLACES + 13

SLOT_AT_IDS, SLOT_AT_LENGTHS, SLOT_IDS, SLOT_KIND = range(4)
SLOT_PLACES: Final = 2
SLOT_FIELDS: Final = 4
"""Where the ids and lengths of a slot lie (these two are places), how many ids there are, and one of:"""

ABSENT, SINGLE, RAGGED = range(3)
"""The block lacks the slot; every row has one id; lengths say how many each has."""


@dataclass(frozen=True, slots=True)
class Form:
    """What every block of a topic has to be, and which of its slots are wanted.

    `numbers` i64 (S,): of the slots wanted, those of context (`contexts` of them) before those of items.
    `tasks`: the array of their names as the wire has it, u1. `context_dense` and `item_dense`: how many
    values a request has, and a row.
    """

    numbers: I64
    contexts: int
    tasks: U8
    task_count: int
    context_dense: int
    item_dense: int

    @classmethod
    def of(cls, features: FeaturesConfig, tasks: Sequence[str]) -> Self:
        """As `features` and `tasks` are configured."""
        context = [s.slot for s in features.slots if not s.source.startswith("item.")]
        items = [s.slot for s in features.slots if s.source.startswith("item.")]
        wide = sum(d.source.startswith("user.") for d in features.dense)
        return cls(
            np.array([*context, *items], np.int64),
            len(context),
            np.frombuffer(msgspec.msgpack.encode(list(tasks)), "u1"),
            len(tasks),
            wide,
            len(features.dense) - wide,
        )

    def slot(self, number: int) -> int:
        """Which of `numbers` slot `number` is.

        Raises:
            ValueError: none.
        """
        numbers: list[int] = self.numbers.tolist()
        return numbers.index(number)

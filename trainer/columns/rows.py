"""The rows of blocks as a step takes them: copied out of their bytes once, column by column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.batch import Batch, Collator, Gathered, Shown
from schema.records import F32, I64, U64
from trainer.columns import gathering
from trainer.columns import layout as at_
from trainer.columns.blocks import Blocks
from trainer.rows import Moments, Rows


class BlockRows(Rows):
    """All rows of `blocks`, of which there is at least one."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        form, rows = blocks.form, blocks.rows
        pairs = (rows, form.task_count)
        self._owners, self._items, self._positions = (np.empty(rows, np.int64) for _ in range(3))
        self._labels, self._mask, self._retract = (np.empty(pairs, np.float32) for _ in range(3))
        self._log_keep = np.empty(rows, np.float32)
        self._dense = np.empty((rows, form.item_dense), np.float32)
        gathering.rows(
            blocks.data,
            blocks.table,
            self._owners,
            self._items,
            self._positions,
            self._labels,
            self._mask,
            self._log_keep,
            self._retract,
            self._dense,
        )

    def counts(self) -> I64:
        """See Rows."""
        return self._blocks.table[:, at_.ROWS]

    def items(self) -> I64:
        """See Rows."""
        return self._items

    def labels(self) -> F32:
        """See Rows."""
        return self._labels

    def mask(self) -> F32:
        """See Rows."""
        return self._mask

    def retract(self) -> F32 | None:
        """See Rows."""
        if not self._blocks.table[:, at_.RETRACTS].any():
            return None
        retract = self._retract * self._mask
        return retract if retract.any() else None

    def log_keep(self) -> F32:
        """See Rows."""
        return self._log_keep

    def propensities(self) -> F32 | None:
        """See Rows."""
        if not self._blocks.table[:, at_.PROPENSITIES].any():
            return None
        odds = np.empty(len(self), np.float32)
        gathering.propensities(self._blocks.data, self._blocks.table, odds)
        return odds

    def late(self) -> I64:
        """See Rows."""
        return (self._blocks.table[:, at_.LATE_OFFSET] >= 0).astype(np.int64)

    def event_times(self) -> I64:
        """See Rows."""
        return self._blocks.table[:, at_.EVENT_TIME]

    def users(self) -> I64:
        """See Rows."""
        return self._blocks.table[:, at_.USER]

    def surfaces(self) -> I64:
        """See Rows."""
        return self._blocks.table[:, at_.SURFACE]

    def moments(self, requests: Sequence[int]) -> list[Moments]:
        """See Rows."""
        chosen = self._blocks.table[np.array(requests, np.int64)]
        return [Moments(*m) for m in chosen[:, [at_.EVENT_TIME, at_.COMPLETED_AT, at_.JOINED_AT]].tolist()]

    def traces(self) -> I64:
        """See Rows."""
        return self._blocks.table[:, at_.TRACE]

    def each(self, values: I64) -> I64:
        """See Rows."""
        return values[self._owners]

    def context_ids(self, slot: int, requests: I64) -> tuple[U64, I64]:
        """See Rows."""
        return self._ids(self._blocks.chosen(requests), self._blocks.form.slot(slot))

    def item_ids(self, slot: int) -> tuple[U64, I64]:
        """See Rows."""
        return self._ids(self._blocks, self._blocks.form.slot(slot))

    def _ids(self, blocks: Blocks, slot: int) -> tuple[U64, I64]:
        one_row = slot < blocks.form.contexts
        ids = np.empty(blocks.slots[:, slot, at_.SLOT_IDS].sum(), np.uint64)
        lengths = np.empty(len(blocks) if one_row else blocks.rows, np.int64)
        gathering.slot(blocks.data, blocks.table, blocks.slots, slot, one_row, 0, ids, lengths)
        return ids, lengths

    def collated(self, collator: Collator) -> Batch:
        """See Rows."""
        blocks, form = self._blocks, self._blocks.form
        assert collator.numbers == form.numbers.tolist()  # noqa: S101 - of one configuration
        counts = blocks.slots[:, :, at_.SLOT_IDS].sum(axis=0)
        ids = np.empty(counts.sum(), np.uint64)
        ends, lengths = np.cumsum(counts), []
        for slot in range(len(form.numbers)):
            one_row = slot < form.contexts
            lengths.append(np.empty(len(blocks) if one_row else len(self), np.int64))
            start = ends[slot] - counts[slot]
            gathering.slot(blocks.data, blocks.table, blocks.slots, slot, one_row, start, ids, lengths[-1])
        context = np.empty((len(blocks), form.context_dense), np.float32)
        gathering.context(blocks.data, blocks.table, context)
        gathered = Gathered(ids, ends.tolist(), lengths, self._owners, context, self._dense)
        return collator.assembled(gathered, Shown(self._positions, self.surfaces().copy()))

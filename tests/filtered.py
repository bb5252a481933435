"""The trainer's duplicate filter, asked of one sample block at a time."""

from __future__ import annotations

import msgspec
import numpy as np

from schema.records import SampleBlock
from trainer.columns.layout import Form
from trainer.columns.scan import encoded
from trainer.dedup import DuplicateFilter


class Filter(DuplicateFilter):
    """Takes records, whatever their slots and tasks."""

    def fresh(self, sample: SampleBlock) -> np.ndarray:
        """1 where a pair of `sample` was not had before, shape (n, T); now it was."""
        fresh = self.take(encoded(form_of(sample), [sample])).get(0)
        known = sample.mask_matrix().astype(bool)
        if fresh is None:
            return known.astype(np.uint8)
        return np.frombuffer(fresh, "u1").reshape(known.shape)


def form_of(sample: SampleBlock) -> Form:
    """That of blocks like `sample`, of whose slots none is wanted."""
    features, tasks = sample.features, list(sample.tasks)
    return Form(
        np.empty(0, np.int64),
        0,
        np.frombuffer(msgspec.msgpack.encode(tasks), "u1"),
        len(tasks),
        len(features.context_dense) // 4,
        len(features.item_dense) // (4 * len(sample)),
    )

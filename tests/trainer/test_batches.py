"""A batch's rows: what is trained, what is evaluated, and what late blocks take back."""

from __future__ import annotations

import msgspec
import numpy as np

from tests.trainer.make import block, entry
from trainer.batches import RowBatch
from trainer.dedup import DuplicateFilter


def read(*blocks) -> RowBatch:
    batch, duplicates = RowBatch(), DuplicateFilter()
    duplicates.begin()
    for offset, made in enumerate(blocks):
        batch.add(entry(offset, made), duplicates)
    return batch


def late(offset: int, at: int):
    made = block(offset, rows=(1,))
    ones, zeros = bytes([1] * len(made.tasks)), bytes(len(made.tasks))
    positive = np.ones(len(made.tasks), "<f4").tobytes()
    return msgspec.structs.replace(
        made, late_offset=at, labels=positive, mask=ones, retract=ones if at % 2 else zeros
    )


def test_a_late_row_is_trained_and_not_evaluated_again():
    batch = read(block(0), late(0, at=7))
    assert (batch.rows, batch.columns().late_rows(), batch.duplicates) == (4, 1, 0)
    rows = batch.columns()
    assert rows.newly_known()[:3].any()
    assert not rows.newly_known()[3].any()
    assert rows.mask().all()
    assert rows.retract().tolist() == [[0, 0]] * 3 + [[1, 1]]


def test_a_repeated_late_row_takes_nothing_back_twice():
    batch = read(block(0), late(0, at=7), late(0, at=7))
    assert (batch.rows, batch.duplicates) == (4, 1)


def test_labels_that_do_not_count_are_kept_within_bounds():
    made = block(0, rows=(0,), mask=[[1, 0]])
    odd = np.array([[1.0, np.nan]], "<f4").tobytes()
    rows = read(msgspec.structs.replace(made, labels=odd)).columns()
    assert rows.labels().tolist() == [[1.0, 0.0]]

"""What is fit to train on passes; what is not becomes a dead letter that says why."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.codec import TRAINING_SAMPLES
from schema.records import Features, IdColumn, SampleBlock, column
from tests.trainer.make import TASKS, block, config, records
from trainer.entries import Position
from trainer.messages import MessageReader
from trainer.pieces import PieceRows, piece

READER = MessageReader("samples", config().features, TASKS)


def changed(**fields: object) -> SampleBlock:
    return msgspec.structs.replace(block(4), **fields)


def dense(values: object, context: bytes = b"") -> Features:
    return msgspec.structs.replace(block(4).features, item_dense=column(values, "<f4"), context_dense=context)


def test_positions_follow_one_another():
    (whole,) = READER.entries(2, 9, TRAINING_SAMPLES.encode([block(1), block(2), block(3)]))
    assert (whole.position, whole.following) == ((9, 0), (10, 0))
    first, rest = whole.split(1)
    entries = [first, *rest.split(1)]
    assert [e.position for e in entries] == [(9, 0), (9, 1), (9, 2)]
    assert [e.following for e in entries] == [(9, 1), (9, 2), (10, 0)]
    assert [r.source.offset for r in records(entries)] == [1, 2, 3]
    assert {e.partition for e in entries} == {2}


def test_an_empty_envelope_is_passed():
    (entry,) = READER.entries(0, 3, TRAINING_SAMPLES.encode([]))
    assert (entry.following, entry.blocks, entry.dead) == (Position(4), None, None)


@pytest.mark.parametrize("payload", [None, b"", b"nonsense", TRAINING_SAMPLES.encode([block(1)])[:-2]])
def test_what_cannot_be_decoded_is_a_dead_letter(payload):
    (entry,) = READER.entries(1, 3, payload)
    assert entry.blocks is None
    assert entry.dead is not None
    assert (entry.dead.topic, entry.dead.partition, entry.dead.offset) == ("samples", 1, 3)
    assert entry.dead.payload == (payload or b"")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (changed(tasks=("like", "click")), "tasks: ['like', 'click']; legal is ['click', 'like']"),
        (changed(mask=b"\x01"), "mask: 1 bytes"),
        (changed(items=b""), "items: 0 bytes"),
        (changed(features=Features(items=(IdColumn(2, b"\x00" * 8),))), "features: a column"),
        (changed(features=dense([1.0] * 6)), "features.item_dense: 24 bytes; legal is 12"),
        (changed(features=dense([1.0] * 3, b"\x00" * 4)), "features.context_dense: 4 bytes; legal is 0"),
        (changed(features=dense([1.0, np.inf, 0.0])), "features.item_dense: one is not finite"),
        (changed(labels=column([[0, 1], [np.nan, 0], [0, 0]], "<f4")), "labels: one is not in 0 to 1"),
        (changed(labels=column([[0, 1], [2, 0], [0, 0]], "<f4")), "labels: one is not in 0 to 1"),
        (changed(surface=1 << 63), "surface: 9223372036854775808; legal is below"),
    ],
)
def test_a_bad_block_is_a_dead_letter_and_its_neighbours_pass(bad, why):
    before, dead, after = READER.entries(0, 5, TRAINING_SAMPLES.encode([block(1), bad, block(2)]))
    assert records([before]) == [block(1)]
    assert records([after]) == [block(2)]
    assert dead.blocks is None
    assert dead.dead is not None
    assert dead.dead.detail.startswith(why)
    assert (dead.dead.reason, dead.dead.index) == ("block", 1)
    assert TRAINING_SAMPLES.decode(dead.dead.payload) == [bad]


def test_a_label_that_is_masked_may_be_anything():
    labels, mask = np.full((3, 2), np.nan), np.zeros((3, 2), "u1")
    labels[1], mask[1] = 1, 1
    odd = changed(labels=column(labels, "<f4"), mask=mask.tobytes())
    (entry,) = READER.entries(0, 5, TRAINING_SAMPLES.encode([odd]))
    assert entry.dead is None
    kept = piece(odd, mask.tobytes())
    assert kept is not None
    assert PieceRows([kept]).labels().tolist() == [[1, 1]]
    half = piece(odd, bytes([0, 0, 1, 0, 0, 0]))
    assert half is not None
    assert PieceRows([half]).mask().tolist() == [[1, 0]]
    assert PieceRows([half]).labels().tolist() == [[1, 1]], (
        "what is known stays: a conditional head reads engagement there"
    )


@given(keep=st.lists(st.booleans(), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_a_piece_has_the_rows_that_are_left(keep, seed):
    n = len(keep)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, n)
    ids = np.arange(lengths.sum(), dtype="<u8")
    sample = block(3, range(n))
    ragged = IdColumn(9, ids.tobytes(), column(lengths, "<u2"))
    features = msgspec.structs.replace(sample.features, items=(*sample.features.items, ragged))
    sample = msgspec.structs.replace(sample, features=features)
    mask = np.array([[k, k and i % 2] for i, k in enumerate(keep)], np.uint8)
    kept = piece(sample, mask.tobytes())
    rows = np.flatnonzero(keep)
    if kept is None:
        assert len(rows) == 0
        return
    assert np.array_equal(PieceRows([kept]).items(), sample.item_ids()[rows])
    assert kept.positions == sample.position_values()[rows].tobytes()
    assert np.array_equal(PieceRows([kept]).labels(), sample.label_matrix()[rows])
    assert np.array_equal(PieceRows([kept]).mask(), mask[rows])
    assert np.array_equal(PieceRows([kept]).counts(), [len(rows)])
    assert kept.features.fits(len(rows))
    per_row = np.split(ids, np.cumsum(lengths)[:-1])
    want = np.concatenate([per_row[i] for i in rows])
    assert np.array_equal(kept.features.items[1].values(), want)
    values = np.frombuffer(kept.features.item_dense, "<f4")
    assert np.array_equal(values, np.frombuffer(sample.features.item_dense, "<f4")[rows])

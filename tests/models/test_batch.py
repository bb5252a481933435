"""Collating against plain loops."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batch import Batch, Collator, SlotIndex
from schema.records import IdColumn, column
from tests.models.naive import CONTEXT, FEATURES, ITEMS, Request


def rows_of(batch: Batch, slot: SlotIndex, rows: int) -> list[list[int]]:
    """The ids of each row of a slot, read back through the batch's indices."""
    ids = batch.ids[slot.table][slot.index.numpy()].tolist()
    starts = list(range(rows)) if slot.offsets is None else slot.offsets.tolist()
    return [ids[start:end] for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_every_row_keeps_its_ids_and_values(seed, counts):
    rng = np.random.default_rng(seed)
    requests = [Request(rng, n) for n in counts]
    orders = [tuple(rng.permutation(len(ITEMS))) for _ in requests]
    features = [r.features(order) for r, order in zip(requests, orders, strict=True)]
    batch = Collator(FEATURES).collate(features, counts)
    assert batch.rows == sum(counts)
    for slot, index in zip(CONTEXT, batch.context, strict=True):
        assert rows_of(batch, index, len(counts)) == [r.context[slot.slot] for r in requests]
    for slot, index in zip(ITEMS, batch.items, strict=True):
        want = [row for r in requests for row in r.items[slot.slot]]
        assert rows_of(batch, index, sum(counts)) == want
    for ids in batch.ids.values():
        assert np.array_equal(np.sort(ids), np.unique(ids))
    assert batch.request_of_row.tolist() == [i for i, n in enumerate(counts) for _ in range(n)]
    assert batch.context_dense.tolist() == [[r.age] for r in requests]
    assert batch.item_dense.tolist() == [[v] for r in requests for v in r.lengths]


@given(seed=st.integers(0, 10_000), data=st.data())
def test_a_narrowed_batch_is_that_of_its_rows(seed, data):
    request = Request(np.random.default_rng(seed), 6)
    rows = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True))
    features = request.features()
    mine = Collator(FEATURES).collate([features], [6]).narrowed(np.array(rows, np.int64))
    its = Collator(FEATURES).collate([features.narrowed(rows, 6)], [len(rows)])
    for narrow, whole in zip((*mine.context, *mine.items), (*its.context, *its.items), strict=True):
        count = len(rows) if narrow in mine.items else 1
        assert rows_of(mine, narrow, count) == rows_of(its, whole, count)
        assert (narrow.offsets is None) == (whole.offsets is None)
    assert mine.item_dense.tolist() == its.item_dense.tolist()
    assert mine.request_of_row.tolist() == [0] * len(rows) == its.request_of_row.tolist()
    assert mine.positions.tolist() == its.positions.tolist()


@pytest.mark.parametrize("slot", [1, 4])
def test_a_slot_that_one_request_lacks_gives_its_rows_no_id(slot):
    rng = np.random.default_rng(1)
    requests = [Request(rng, 2), Request(rng, 3), Request(rng, 1)]
    features = [r.features(without=slot if i == 1 else None) for i, r in enumerate(requests)]
    batch = Collator(FEATURES).collate(features, [2, 3, 1])
    if slot == 1:
        want = [requests[0].context[1], [], requests[2].context[1]]
        assert rows_of(batch, batch.context[0], 3) == want
    else:
        want = [*requests[0].items[4], [], [], [], *requests[2].items[4]]
        assert rows_of(batch, batch.items[1], 6) == want


def test_a_slot_that_is_not_configured_is_left_out():
    request = Request(np.random.default_rng(2), 2)
    features = request.features()
    more = msgspec.structs.replace(features, items=(IdColumn(99, column([7, 8], "<u8")), *features.items))
    mine, its = (Collator(FEATURES).collate([f], [2]) for f in (more, features))
    for table, ids in its.ids.items():
        assert np.array_equal(mine.ids[table], ids)


def test_no_table_is_left_out_though_nothing_has_an_id():
    features = Request(np.random.default_rng(2), 1).features()
    bare = msgspec.structs.replace(features, context=(), items=())
    batch = Collator(FEATURES).collate([bare], [1])
    assert {table: len(ids) for table, ids in batch.ids.items()} == {"embedding": 0, "other": 0}
    assert all(isinstance(slot.offsets, torch.Tensor) for slot in (*batch.context, *batch.items))


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("context_dense", "context_dense: 0 values for 1 rows"),
        ("item_dense", "item_dense: 0 values for 2 rows"),
    ],
)
def test_dense_values_that_are_not_as_configured_are_refused(field, text):
    features = msgspec.structs.replace(Request(np.random.default_rng(2), 2).features(), **{field: b""})
    with pytest.raises(ValueError, match=text):
        Collator(FEATURES).collate([features], [2])


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_ids_of_one_place_lie_side_by_side_and_mean_the_same(seed, counts):
    rng = np.random.default_rng(seed)
    requests = [Request(rng, n) for n in counts]
    features = [r.features(tuple(range(len(ITEMS)))) for r in requests]
    plain = Collator(FEATURES).collate(features, counts)
    placed = Collator(FEATURES, lambda ids: (ids % 3).astype(np.int64)).collate(features, counts)
    for table, ids in plain.ids.items():
        assert np.array_equal(placed.ids[table], ids[np.argsort(ids % 3, kind="stable")])
    for mine, its in zip((*placed.context, *placed.items), (*plain.context, *plain.items), strict=True):
        assert np.array_equal(placed.ids[mine.table][mine.index], plain.ids[its.table][its.index])

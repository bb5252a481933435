"""Items as sums of rows, beside plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.retrieval.items import WIDTH, Contents, Parts, packed_ids, packed_row, whole_contents

SLOTS = st.lists(st.lists(st.integers(1, 2**64 - 1), max_size=4), min_size=3, max_size=3)


def row(item: Sequence[Sequence[int]]) -> list[int]:
    return packed_row(np.array(ids, "<u8").tobytes() for ids in item)


@given(st.lists(SLOTS, max_size=6))
def test_many_items_are_packed_as_one_is(items):
    columns = []
    for slot in range(3):
        ids = [i for item in items for i in item[slot]]
        columns.append((np.array(ids, np.uint64), np.array([len(item[slot]) for item in items], np.int64)))
    packed = packed_ids(columns, len(items))
    assert packed.tolist() == [row(item) for item in items]
    assert packed.shape == (len(items), WIDTH)


@given(st.lists(SLOTS, max_size=6), st.integers(0, 3))
def test_an_item_is_the_sum_of_the_rows_of_its_ids(items, seed):
    packed = np.array([row(item) for item in items], np.uint64).reshape(-1, WIDTH)
    parts = Parts.of(packed)
    assert parts.ids.tolist() == sorted({i for row in packed.tolist() for i in row if i})
    rows = np.random.default_rng(seed).normal(size=(len(parts.ids), 3)).astype(np.float32)
    of = dict(zip(parts.ids.tolist(), rows, strict=True))
    expected = [sum((of[i] for i in row if i), np.zeros(3)) for row in packed.tolist()]
    np.testing.assert_allclose(parts.sums(rows), np.array(expected).reshape(-1, 3), rtol=1e-4, atol=1e-5)


def test_contents_grow_are_replaced_and_come_back():
    contents, again = Contents(), Contents()
    ids = np.arange(1, 1 + 3 * WIDTH, dtype=np.uint64).reshape(3, WIDTH)
    contents.put(np.array([5, 0]), ids[:2])
    contents.put(np.array([5]), ids[2:])
    again.restore(contents.saved())
    for it in (contents, again):
        assert it.of(np.array([5, 0])).tolist() == [ids[2].tolist(), ids[1].tolist()]
    assert again.saved() == contents.saved()


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=5, unique=True), min_size=1, max_size=6))
def test_contents_that_changed_since_a_mark_complete_those_saved_then(rounds):
    contents = Contents()
    parts, mark = [contents.saved()], contents.changes.mark()
    for number, rows in enumerate(rounds):
        contents.put(np.array(rows), np.full((len(rows), WIDTH), number + 1, np.uint64))
        parts.append(contents.saved(mark))
        mark = contents.changes.mark()
        assert len(parts[-1].ids) == len(rows) * WIDTH * 8
        assert whole_contents(parts) == contents.saved()

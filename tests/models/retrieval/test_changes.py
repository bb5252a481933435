"""Changes of rows since a mark, and a column from its whole and what changed since, beside the obvious ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.retrieval.changes import Changes, patched

ROWS = st.lists(st.integers(0, 40), max_size=8)


@given(st.lists(ROWS, max_size=8), st.integers(0, 7))
def test_what_was_touched_after_a_mark(rounds, chosen):
    changes, marks = Changes(), []
    for rows in rounds:
        marks.append(changes.mark())
        changes.touch(np.array(rows, np.int64))
    if chosen < len(marks):
        expected = sorted({row for rows in rounds[chosen:] for row in rows})
        assert changes.since(marks[chosen]).tolist() == expected


@given(
    whole=st.lists(st.integers(0, 9), max_size=10),
    parts=st.lists(st.dictionaries(st.integers(0, 14), st.integers(0, 9)), max_size=4),
    more=st.integers(0, 3),
)
def test_a_column_is_its_whole_with_what_changed_since(whole, parts, more):
    rows = max([len(whole), *(row + 1 for part in parts for row in part)]) + more
    expected = {**dict(enumerate(whole)), **{row: value for part in parts for row, value in part.items()}}
    given_ = [
        (np.array(sorted(p), np.int64), np.array([p[r] for r in sorted(p)], "<i4").tobytes()) for p in parts
    ]
    column = patched([(None, np.array(whole, "<i4").tobytes()), *given_], rows, b"\xff" * 4)
    assert np.frombuffer(column, "<i4").tolist() == [expected.get(row, -1) for row in range(rows)]


@pytest.mark.parametrize(
    ("rows", "cells"), [([3], b"abcd"), ([0, 1], b"abcd"), ([-1], b"abcd"), ([0], b"abc")]
)
def test_cells_that_do_not_fit_are_refused(rows, cells):
    with pytest.raises(ValueError, match=r"cells for|buffer size"):
        patched([(None, b"12345678"), (np.array(rows, np.int64), cells)], 2, bytes(4))

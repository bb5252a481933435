"""Sets of (row, task) pairs: against sets of tuples."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming import cells

ROWS, TASKS = 12, 3
PAIRS = st.frozensets(st.tuples(st.integers(0, ROWS - 1), st.integers(0, TASKS - 1)))


def packed(pairs):
    return sum(1 << row * TASKS + task for row, task in pairs)


def matrix(pairs, rows):
    made = np.zeros((len(rows), TASKS))
    for row, task in pairs:
        if row in rows:
            made[rows.index(row), task] = 1
    return made


@given(PAIRS)
def test_columns_are_those_of_the_pairs(pairs):
    made, rows = packed(pairs), list(range(ROWS))
    flags, labels = cells.flags(made, ROWS, TASKS), cells.labels(made, ROWS, TASKS)
    assert (np.frombuffer(flags, "u1").reshape(ROWS, TASKS) == matrix(pairs, rows)).all()
    assert (np.frombuffer(labels, "<f4").reshape(ROWS, TASKS) == matrix(pairs, rows)).all()
    assert cells.from_flags(flags) == cells.from_labels(labels) == made
    assert int.from_bytes(cells.to_bytes(made), "little") == made
    assert cells.rows_in(made, TASKS) == sorted({row for row, _ in pairs})
    assert cells.of_row(made, 4, TASKS) == sum(1 << task for row, task in pairs if row == 4)


@given(PAIRS, st.sets(st.integers(0, ROWS - 1)).map(sorted))
def test_some_rows_may_be_taken_out_and_put_back(pairs, rows):
    some = cells.gather(packed(pairs), rows, TASKS)
    assert cells.flags(some, len(rows), TASKS) == matrix(pairs, rows).astype("u1").tobytes()
    assert cells.scatter(some, rows, TASKS) == packed({(row, task) for row, task in pairs if row in rows})


@given(st.lists(st.sampled_from([0, 1, 256, 1 << 32, (1 << 63) - 1, 0x0101010101010101]), max_size=8))
def test_an_item_is_found_in_all_its_rows_and_never_between_them(items):
    column = struct.pack(f"<{len(items)}q", *items)
    for item in (0, 1, 256, 1 << 32, 7):
        expected = packed(
            {(row, task) for row, shown in enumerate(items) for task in (0, 2) if shown == item}
        )
        assert cells.of_item(column, item, 0b101, TASKS) == expected

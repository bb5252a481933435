"""Traced samples: who is traced, and what the roles told put together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schema.stages import STAGES, TRACED, Traced, pack, trace_name, trace_of, unpack, ways

ANY = st.integers(0, 2**62)


def test_about_one_request_in_so_many_is_traced_each_with_a_trace_of_its_own():
    ids = [f"{i:032x}" for i in range(64_000)]
    traced = [i for i in ids if trace_of(i)]
    assert 0.8 < len(traced) * TRACED / len(ids) < 1.2
    assert len({trace_of(i) for i in traced}) == len(traced)


@given(st.text())
def test_a_trace_fits_the_row_of_integers(request_id):
    assert 0 <= trace_of(request_id) < 1 << 63
    assert len(trace_name(trace_of(request_id))) == 16


@given(st.lists(st.tuples(ANY, ANY, ANY, ANY, ANY), max_size=5))
def test_times_come_out_as_they_went_in(samples):
    packed = np.array(pack(Traced(*sample) for sample in samples), np.int64)
    assert [tuple(row) for row in unpack(packed).tolist()] == samples


def test_times_of_another_shape_are_none():
    assert unpack(np.arange(7)).shape == (0, 5)


def test_what_the_roles_told_is_put_together_by_sample():
    common = {"trace": "a", "event": 1, "completed": 5, "joined": 6, "trained": 7}
    other = common | {"completed": 9}
    trainer = [common | {"published": 8}, other | {"published": 12}]
    first, second = [common | {"applied": 20, "served": 21}], [common | {"applied": 10, "served": 30}]
    whole, part = ways(trainer, first, second)
    assert list(whole) == ["trace", *STAGES]
    assert (whole["published"], whole["applied"], whole["served"]) == (8, 10, 21)
    assert (part["completed"], "served" in part) == (9, False)
    assert ways([], []) == []

"""Packed rows: widths, error bounds, values at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from parameter_server.packing import pack, packed_width, unpack
from schema.config import ReplicaRows

VECTORS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(0, 5), st.integers(1, 20)),
    elements=st.floats(-(2.0**15), 2.0**15, width=32),
)


@given(VECTORS)
def test_unpacking_is_within_the_bound_and_packing_again_changes_nothing(vectors: np.ndarray) -> None:
    dim = vectors.shape[1]
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    bounds = {"fp32": 0 * largest, "fp16": largest * 2**-11 + 2**-24, "int8": largest / 253 + 1e-37}
    for form, bound in bounds.items():
        packed = pack(vectors, form)  # type: ignore[arg-type]
        assert packed.shape == (len(vectors), packed_width(dim, form))  # type: ignore[arg-type]
        held = unpack(packed, dim, form)  # type: ignore[arg-type]
        assert held.dtype == np.float32
        assert (np.abs(held - vectors) <= bound).all()
        if form != "int8":
            assert np.array_equal(unpack(pack(held, form), dim, form), held)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "dim", "words"),
    [("fp32", 5, 5), ("fp16", 4, 2), ("fp16", 5, 3), ("int8", 4, 2), ("int8", 5, 3), ("int8", 16, 5)],
)
def test_widths(form: ReplicaRows, dim: int, words: int) -> None:
    assert packed_width(dim, form) == words


def test_what_float16_cannot_hold_becomes_its_largest() -> None:
    vectors = np.array([[1e9, -1e9, 1.0]], np.float32)
    assert unpack(pack(vectors, "fp16"), 3, "fp16").tolist() == [[65504.0, -65504.0, 1.0]]


def test_a_row_of_zeros_stays_one() -> None:
    vectors = np.zeros((2, 7), np.float32)
    assert not unpack(pack(vectors, "int8"), 7, "int8").any()

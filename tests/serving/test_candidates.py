"""How popular and recent items are mixed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.candidates import Candidates


@dataclass(frozen=True)
class Case:
    popular: list[int]
    recent: list[int]
    share: float
    expected: tuple[int, ...]


CASES = {
    "both lists long enough": Case([1, 2, 3, 4, 5], [11, 12, 13, 14, 15], 0.4, (1, 2, 3, 11, 12)),
    "one item in both counts once": Case([1, 2, 3, 4, 5], [2, 11, 12, 13], 0.4, (1, 2, 3, 11, 4)),
    "few popular ones": Case([1], [11, 12, 13, 14, 15], 0.2, (1, 11, 12, 13, 14)),
    "few recent ones": Case([1, 2, 3, 4, 5, 6], [11], 0.8, (1, 11, 2, 3, 4)),
    "nothing": Case([], [], 0.2, ()),
    "no recent wanted": Case([1, 2, 3, 4, 5, 6], [11], 0.0, (1, 2, 3, 4, 5)),
    "only recent wanted": Case([1, 2], [11, 12, 13, 14, 15], 1.0, (11, 12, 13, 14, 15)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_mix(case):
    assert mix(case.popular, case.recent, 5, case.share) == case.expected


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.integers(1, 20),
    st.floats(0, 1),
)
def test_no_item_twice_and_as_many_as_there_are(popular, recent, count, share):
    popular, recent = popular[:count], recent[:count]
    mixed = mix(popular, recent, count, share)
    assert len(set(mixed)) == len(mixed) == min(count, len({*popular, *recent}))

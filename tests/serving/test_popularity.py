"""Decayed counts, against an oracle that sums every action anew."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.popularity import Popularity

HALF_LIFE = 60.0
START = 1_700_000_000_000

events = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from([0.5, 1.0, 2.0]), st.integers(START, START + 3_600_000)),
    min_size=1,
    max_size=60,
)


def oracle(seen: list[tuple[int, float, int]], item: int, at: int) -> float:
    return sum(w * 2 ** ((t - at) / 1000 / HALF_LIFE) for i, w, t in seen if i == item)


@given(events, st.integers(1, 60))
def test_counts_are_those_of_the_oracle_in_any_order_and_any_batches(seen, batch):
    popularity = Popularity(HALF_LIFE)
    for start in range(0, len(seen), batch):
        items, weights, times = zip(*seen[start : start + batch], strict=True)
        popularity.add(items, weights, times)
    at = START + 3_600_000
    counts = {i: oracle(seen, i, at) for i in range(9)}
    for item, count in counts.items():
        assert popularity.count(item, at) == pytest.approx(count, rel=1e-5)
    ordered = [counts[i] for i in popularity.top(9)]
    assert len(ordered) == len({i for i, _, _ in seen})
    assert all(a >= b * (1 - 1e-5) for a, b in pairwise(ordered))


def test_a_recent_action_outweighs_many_old_ones():
    popularity = Popularity(HALF_LIFE)
    popularity.add([1] * 7, [1.0] * 7, [START] * 7)
    popularity.add([2], [1.0], [START + 180_000])
    assert popularity.top(2) == [2, 1]
    assert popularity.count(1, START + 60_000) == pytest.approx(3.5)


def test_decades_of_events_neither_overflow_nor_vanish():
    popularity = Popularity(1.0)
    popularity.add([1, 2], [1.0, 1.0], [0, 4_000_000_000_000])
    assert popularity.top(2) == [2, 1]
    assert popularity.count(2, 4_000_000_000_000) == pytest.approx(1.0)


def test_grows_past_its_first_rows_and_keeps_every_item():
    popularity = Popularity(HALF_LIFE)
    items = list(range(5000))
    popularity.add(items, [1.0 + i for i in items], [START] * 5000)
    assert popularity.top(3) == [4999, 4998, 4997]
    assert popularity.top(10_000)[-1] == 0


def test_beyond_its_bound_the_less_popular_half_is_forgotten():
    popularity = Popularity(HALF_LIFE, max_items=100)
    items = list(range(101))
    popularity.add(items, [1.0 + i for i in items], [START] * 101)
    assert len(popularity) == 50
    assert popularity.top(100) == list(range(100, 50, -1))
    assert popularity.count(0, START) == 0
    popularity.add([0, 100], [1.0, 1.0], [START, START])
    assert popularity.count(0, START) == pytest.approx(1.0, rel=1e-5)
    assert popularity.count(100, START) == pytest.approx(102.0, rel=1e-5)


def test_an_empty_one_has_no_top():
    assert Popularity(HALF_LIFE).top(5) == []

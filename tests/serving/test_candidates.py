"""How popular and recent items are mixed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.config import ReplicaConfig, ServingConfig
from serving.candidates import Candidates, Origin, Places


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
    assert Candidates.mixed(case.popular, case.recent, 5, case.share).items == case.expected


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.integers(1, 20),
    st.floats(0, 1),
)
def test_no_item_twice_and_as_many_as_there_are(popular, recent, count, share):
    popular, recent = popular[:count], recent[:count]
    mixed = Candidates.mixed(popular, recent, count, share).items
    assert len(set(mixed)) == len(mixed) == min(count, len({*popular, *recent}))


SERVING = ServingConfig(
    replicas=(ReplicaConfig(port=1),), candidates=10, recent_share=0.2, popular_share=0.3, feed_size=1
)


def test_what_was_retrieved_leads_and_new_and_popular_items_keep_their_places():
    mixed = Candidates.mixed(list(range(100, 110)), list(range(200, 210)), 10, 0.2)
    led = mixed.led_by([1, 2, 3, 200, 5, 6, 7], SERVING)
    assert led.items == (1, 2, 3, 200, 5, 201, 100, 101, 102, 6)
    names = "".join(origin.name[2] for origin in led.origins)
    assert names == "TTTTTCPPPT", "of an item on two lists the first counts: reTrieved, reCent, poPular"
    assert mixed.origins == (Origin.POPULAR,) * 8 + (Origin.RECENT,) * 2


def test_where_little_was_retrieved_the_other_lists_fill_up():
    mixed = Candidates.mixed(list(range(100, 110)), list(range(200, 210)), 10, 0.2)
    led = mixed.led_by([1], SERVING)
    assert led.items[:6] == (1, 200, 201, 100, 101, 102)
    assert len(led.items) == 10


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_the_places_are_as_many_as_there_are_candidates(count, recent_share, rest):
    popular_share = rest * (1 - recent_share)
    serving = ServingConfig(
        replicas=(ReplicaConfig(port=1),),
        candidates=count,
        recent_share=recent_share,
        popular_share=popular_share,
    )
    places = Places.of(serving)
    assert min(places) >= 0
    assert sum(places) in {count, count + 1}, "two halves round up"
    assert abs(places.retrieved - count * (1 - recent_share - popular_share)) <= 1


@given(
    st.lists(st.integers(0, 20), unique=True, max_size=12),
    st.lists(st.integers(0, 20), unique=True, max_size=12),
    st.lists(st.integers(0, 20), unique=True, max_size=12),
)
def test_every_candidate_is_of_the_list_that_its_origin_names(retrieved, popular, recent):
    mixed = Candidates.mixed(popular, recent, 10, 0.2)
    led = mixed.led_by(retrieved, SERVING)
    lists = {Origin.RETRIEVED: retrieved, Origin.RECENT: recent, Origin.POPULAR: popular}
    assert all(item in lists[origin] for item, origin in zip(led.items, led.origins, strict=True))
    assert len(set(led.items)) == len(led.items) == min(10, len({*retrieved, *popular, *recent}))

"""Histories: which kinds go where, in which order, and that they stay bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schema.config import HistoryConfig
from serving.history import EXPOSED, Histories

CONFIG = (
    HistoryConfig(name="watched", actions=(EXPOSED,), length=4),
    HistoryConfig(name="engaged", actions=("click", "like"), length=3),
    HistoryConfig(name="liked", actions=("like",), length=2),
)


def test_a_kind_goes_into_every_history_that_names_it():
    histories = Histories(CONFIG)
    histories.add(1, "like", [10], 5)
    histories.add(1, "click", [11], 6)
    histories.add(1, EXPOSED, [12, 13], 7)
    histories.add(1, "share", [14], 8)
    assert histories.of(1) == {"watched": [12, 13], "engaged": [10, 11], "liked": [10]}


def test_an_unknown_user_has_empty_histories():
    assert Histories(CONFIG).of(9) == {"watched": [], "engaged": [], "liked": []}


def test_kinds_of_no_history_make_no_user():
    histories = Histories(CONFIG)
    histories.add(1, "share", [14], 8)
    histories.add(1, "like", [], 8)
    assert len(histories) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(0, 99), max_size=6)), max_size=30))
def test_items_are_the_last_ones_by_event_time_whatever_order_they_come_in(events):
    histories = Histories(CONFIG)
    kept: list[tuple[int, int]] = []
    for time, items in events:
        histories.add(1, EXPOSED, items, time)
        kept = sorted([*kept, *((time, i) for i in items)], key=lambda pair: pair[0])[-4:]
    assert histories.of(1)["watched"] == [i for _, i in kept]


def test_the_user_that_was_quiet_longest_is_forgotten():
    histories = Histories(CONFIG, max_users=2)
    for user in (1, 2, 1, 3):
        histories.add(user, "like", [user * 10], 1)
    assert len(histories) == 2
    assert histories.of(2)["liked"] == []
    assert histories.of(1)["liked"] == [10, 10]
    assert histories.of(3)["liked"] == [30]

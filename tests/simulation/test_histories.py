"""Users' histories: seeded, kept current, bounded."""

from __future__ import annotations

from schema.config import HistoryConfig
from simulation.histories import Histories

WATCHED = HistoryConfig(name="watched", actions=("exposed",), length=3)
ENGAGED = HistoryConfig(name="engaged", actions=("click", "like"), length=4)


def test_an_unknown_user_has_empty_histories() -> None:
    assert Histories([WATCHED, ENGAGED], {}).of(1) == {"watched": [], "engaged": []}


def test_seeds_come_first_and_are_cut_to_the_length() -> None:
    seeds = {"exposed": {1: [9, 8, 7, 6]}, "click": {1: [5]}, "like": {1: [4]}}
    found = Histories([WATCHED, ENGAGED], seeds).of(1)
    assert found == {"watched": [8, 7, 6], "engaged": [5, 4]}
    assert seeds["exposed"][1] == [9, 8, 7, 6]


def test_an_action_adds_to_the_histories_that_name_it() -> None:
    histories = Histories([WATCHED, ENGAGED], {"exposed": {1: [9]}})
    for item in range(3):
        histories.add(1, "exposed", item)
    histories.add(1, "like", 2)
    histories.add(1, "hate", 2)
    assert histories.of(1) == {"watched": [0, 1, 2], "engaged": [2]}
    assert histories.of(2) == {"watched": [], "engaged": []}

"""What a person's scrolling comes to."""

from __future__ import annotations

import pytest

from console.viewer import HASTE, Card, Viewer, card

CARDS = [Card(f"r{i}", 100 + i, topic=i % 3, author=i, scores={}, explored=False) for i in range(4)]
FULL = 30.0 / HASTE


def kinds(actions) -> list[tuple[int, str]]:
    return [(action["item_id"], action["kind"]) for action in actions]


@pytest.fixture
def viewer() -> Viewer:
    viewer = Viewer(7)
    viewer.shown(CARDS)
    return viewer


@pytest.mark.parametrize(
    ("stayed", "told"),
    [
        (0.5, []),
        (1.0, ["click", "watch"]),
        (0.79 * FULL, ["click", "watch"]),
        (0.81 * FULL, ["click", "watch", "long_view"]),
        (99.0, ["click", "watch", "long_view"]),
    ],
)
def test_how_long_a_person_stays_says_what_it_was(viewer, stayed, told):
    assert viewer.look(0, 10.0, 1) == []
    actions = viewer.look(1, 10.0 + stayed, 5)
    assert kinds(actions) == [(100, kind) for kind in told]
    if told:
        assert actions[1]["value"] == pytest.approx(min(30.0, stayed * HASTE), abs=0.1)
        assert {(a["request_id"], a["event_time"]) for a in actions} == {("r0", 5)}


def test_looking_at_the_same_card_again_changes_nothing(viewer):
    viewer.look(0, 10.0, 1)
    assert viewer.look(0, 50.0, 1) == []
    assert viewer.look(99, 50.0, 1) == []
    assert kinds(viewer.look(1, 12.0, 1)) == [(100, "click"), (100, "watch")]


def test_a_like_is_a_click_and_is_remembered_by_topic(viewer):
    assert kinds(viewer.like(2, 1)) == [(102, "click"), (102, "like")]
    assert viewer.liked == {2: 1}


def test_what_is_left_says_when_to_fetch(viewer):
    assert viewer.left == 4
    viewer.look(2, 1.0, 1)
    assert viewer.left == 1
    viewer.shown(CARDS)
    assert viewer.left == 5
    assert [sum(mix.values()) for mix in viewer.mixes] == [4, 4]


def test_a_card_of_an_item_of_which_nothing_is_known():
    item = {"item_id": 5, "scores": {}, "explored": True}
    bare = card("r", item, {}, None)
    assert (bare.topic, bare.author, bare.explored, bare.seconds) == (0, 0, True, 30.0)
    known = card("r", item, {"tag": [4, 5], "author": [9]}, 12.0)
    assert (known.topic, known.author, known.seconds) == (4, 9, 12.0)
    assert 0 <= known.hue < 360

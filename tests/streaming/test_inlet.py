"""What is joined first of what was fetched: the topic that is behind, and the one ahead waits a while."""

from __future__ import annotations

import pytest

from streaming.inlet import PATIENCE_MS, Inlet
from streaming.watermark import Side, Watermark

LEAD = 50


def inlet(features: int | None, actions: int | None) -> Inlet:
    """One whose partition has come that far in either topic."""
    clock = Watermark(LEAD, 1000, 0)
    clock.observe(Side.FEATURES, features, 0)
    clock.observe(Side.ACTIONS, actions, 0)
    return Inlet(clock, LEAD)


def nothing_more(_side: Side) -> bool:
    return False


def more(_side: Side) -> bool:
    return True


def test_what_is_behind_in_event_time_goes_first():
    under_test = inlet(2000, 1000)
    under_test.add(Side.FEATURES, ["log"])
    under_test.add(Side.ACTIONS, ["action"])
    assert under_test.take(more, 0) == (Side.ACTIONS, ["action"])
    assert under_test.take(nothing_more, 0) == (Side.FEATURES, ["log"])
    assert under_test.take(nothing_more, 0) is None
    assert len(under_test) == 0


def test_messages_of_a_topic_keep_their_order_over_chunks():
    under_test = inlet(1000, None)
    under_test.add(Side.FEATURES, list(range(70)))
    under_test.add(Side.FEATURES, list(range(70, 100)))
    taken = []
    while (some := under_test.take(nothing_more, 0)) is not None:
        taken += some[1]
    assert taken == list(range(100))


@pytest.mark.parametrize(
    ("features", "actions", "waits"),
    [(1000, 1000, False), (1000, 1000 + LEAD, False), (1000, 1001 + LEAD, True), (None, 1000, True)],
)
def test_the_topic_ahead_waits_for_a_fetch_of_the_other(features, actions, waits):
    under_test = inlet(features, actions)
    under_test.add(Side.ACTIONS, ["action"])
    assert (under_test.take(more, 0) is None) == waits


def test_nothing_waits_for_a_topic_that_was_read_to_its_end():
    under_test = inlet(1000, 9000)
    under_test.add(Side.ACTIONS, ["action"])
    assert under_test.take(nothing_more, 0) == (Side.ACTIONS, ["action"])


def test_patience_ends_and_begins_again_with_the_next_fetch():
    under_test = inlet(1000, 9000)
    under_test.add(Side.ACTIONS, ["a"])
    assert under_test.take(more, 100) is None
    assert under_test.take(more, 99 + PATIENCE_MS) is None
    assert under_test.take(more, 100 + PATIENCE_MS) == (Side.ACTIONS, ["a"])
    under_test.add(Side.ACTIONS, ["b"])
    assert under_test.take(more, 200 + PATIENCE_MS) is None


def test_no_more_is_fetched_of_a_topic_while_some_of_it_waits():
    under_test = inlet(1000, 9000)
    under_test.add(Side.ACTIONS, ["a"])
    assert under_test.take(more, 0) is None
    assert (under_test.wants(Side.FEATURES), under_test.wants(Side.ACTIONS)) == (True, False)

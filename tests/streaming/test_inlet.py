"""What is joined first of what was fetched: the topic that is behind, and the one ahead waits a while."""

from __future__ import annotations

import pytest

from streaming.inlet import PATIENCE_MS, Inlet
from streaming.watermark import Side, Watermark

LEAD = 50
CHUNK = 32


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


def test_actions_begin_after_feature_logs_if_there_may_be_any():
    under_test = inlet(None, None)
    under_test.add(Side.ACTIONS, ["action"])
    assert under_test.take(more, 0) is None
    under_test.add(Side.FEATURES, ["log"])
    assert under_test.take(more, 0) == (Side.FEATURES, ["log"])
    assert under_test.take(nothing_more, 0) == (Side.ACTIONS, ["action"])


def test_feature_logs_do_not_wait_for_the_first_action():
    under_test = inlet(None, None)
    under_test.add(Side.FEATURES, ["log"])
    assert under_test.take(more, 0) == (Side.FEATURES, ["log"])


@pytest.mark.parametrize("pace", [0, 1, 7, 40, 1000])
def test_actions_stop_where_the_feature_logs_have_come_to(pace):
    clock = Watermark(LEAD, 1000, 0)
    clock.observe(Side.FEATURES, 1000, 0)
    clock.observe(Side.ACTIONS, 0, 0)
    under_test = Inlet(clock, LEAD)
    under_test.add(Side.FEATURES, ["log"])
    under_test.add(Side.ACTIONS, list(range(300)))
    read = 0
    while (some := under_test.take(more, 0)) is not None and some[0] is Side.ACTIONS:
        assert some[1] == list(range(read, read + len(some[1]))), "in order, and none is left out"
        read += len(some[1])
        clock.observe(Side.ACTIONS, read * pace, 0)
        assert read * pace <= 1000 + pace or read <= CHUNK, "the pace is not known before the first ones came"
    assert some == (Side.FEATURES, ["log"]) or read == 300


def test_actions_go_on_by_the_message_while_a_fetch_of_feature_logs_is_to_come():
    clock = Watermark(LEAD, 1000, 0)
    clock.observe(Side.FEATURES, 1000, 0)
    clock.observe(Side.ACTIONS, 0, 0)
    under_test = Inlet(clock, LEAD)
    under_test.add(Side.ACTIONS, list(range(300)))
    read = 0
    while (some := under_test.take(more, 0)) is not None:
        read += len(some[1])
        clock.observe(Side.ACTIONS, 20 * read, 0)
    assert 1000 + LEAD < 20 * read <= 1000 + LEAD + 20
    assert under_test.take(nothing_more, 0) == (Side.ACTIONS, list(range(read, read + CHUNK)))


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

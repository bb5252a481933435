"""Requests that are but slots, in a partition: which are, and what is said of them besides their block."""

from __future__ import annotations

import pytest

from schema.records import Heartbeat
from streaming.request import Request
from streaming.watermark import Side
from tests.streaming.make import EARLY, RULES, action, feature_log
from tests.streaming.test_partition import SCORED, Bench, actions, letters, logs


def plain_ones(bench):
    return len(bench.partition.join.requests.register)


def said(bench):
    """Of each block: its request, its labels as a list, and the action that made it late."""
    bench.deliver()
    return [(b.request_id, b.label_matrix().tolist(), b.late_offset) for b in bench.samples]


NOTHING = [[0.0, 0.0]] * 3
CLICKED = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_requests_are_slots_until_their_block_has_arrived():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 5000), Heartbeat(4000), feature_log("b", 5000)))
    bench.receive(Side.ACTIONS, 0, actions(action("a", 5100)))
    assert plain_ones(bench) == bench.partition.join.open_requests == 2
    bench.silence()
    bench.take()
    assert (plain_ones(bench), bench.partition.join.open_requests) == (2, 0)
    assert said(bench) == [("a", CLICKED, -1), ("b", NOTHING, -1)]
    assert plain_ones(bench) == 0
    bench.commit()
    assert bench.committed == [1, 1]


@pytest.mark.parametrize("written", [False, True])
def test_a_late_action_of_one_whose_block_is_on_its_way_takes_its_negative_back(written):
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 5000), feature_log("b", 5000)))
    bench.silence()
    if written:
        bench.take()
    bench.receive(Side.ACTIONS, 0, actions(action("a", 5100)))
    assert plain_ones(bench) == 2, "its slot comes back with its block"
    assert said(bench) == [("a", NOTHING, -1), ("b", NOTHING, -1), ("a", CLICKED[:1], 0)]
    assert bench.samples[-1].retract == b"\1\0"
    assert plain_ones(bench) == 0
    bench.commit()
    assert bench.committed == [1, 1]
    bench.receive(Side.ACTIONS, 1, actions(action("a", 5100), action("a", 5200, 20)))
    assert said(bench)[3:] == [("a", [[1.0, 0.0]], 1)], "the store has both"


def test_an_action_that_makes_no_label_leaves_the_block_as_it_is():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 5000)))
    bench.receive(Side.ACTIONS, 0, actions(action("a", 5100), action("a", 5100, 99)))
    assert plain_ones(bench) == 0
    bench.silence()
    bench.take()
    assert letters(bench) == [("actions", 3, 0, 0, "unknown_item")]
    assert said(bench) == [("a", CLICKED, -1)]


def test_the_first_of_two_logs_of_one_request_counts():
    bench = Bench()
    first, second = feature_log("a", 5000, [10]), feature_log("a", 5000, [20])
    bench.receive(Side.FEATURES, 0, logs(first, second, feature_log("b", 5000)))
    bench.receive(Side.FEATURES, 1, logs(second))
    bench.receive(Side.ACTIONS, 0, actions(action("a", 5100)))
    assert bench.counts.duplicates == 2
    bench.silence()
    bench.take()
    assert sorted(said(bench)) == [("a", [[1.0, 0.0]], -1), ("b", NOTHING, -1)]
    bench.receive(Side.FEATURES, 2, logs(second))
    assert bench.counts.duplicates == 3, "the store knows it"
    bench.commit()
    assert bench.committed == [3, 1]


def test_those_of_which_actions_wait_or_are_parked_are_objects_and_their_neighbours_are_not():
    bench = Bench()
    bench.receive(Side.ACTIONS, 0, actions(action("parked", 5100)))
    bench.receive(Side.FEATURES, 0, logs(Heartbeat(9000)))
    bench.receive(Side.ACTIONS, 1, actions(action("waits", 9100)))
    assert bench.partition.join.parked
    bench.receive(Side.FEATURES, 1, logs(feature_log("waits", 9000), feature_log("a", 9000)))
    assert plain_ones(bench) == 1
    bench.receive(Side.FEATURES, 2, logs(feature_log("parked", 9000), feature_log("b", 9000)))
    assert plain_ones(bench) == 1, "parked actions are looked up by message"
    bench.receive(Side.FEATURES, 3, logs(feature_log("c", 9000)))
    assert plain_ones(bench) == 2
    bench.silence()
    bench.take()
    labels = {request_id: rows for request_id, rows, _ in said(bench)}
    assert labels == {"waits": CLICKED, "a": NOTHING, "parked": CLICKED, "b": NOTHING, "c": NOTHING}


def test_a_message_is_not_kept_for_one_that_is_open_much_longer_than_its_neighbours():
    bench = Bench()
    ahead = feature_log("ahead", 5001 + RULES.window)
    bench.receive(
        Side.FEATURES, 0, logs(feature_log("a", 5000), ahead, feature_log("b", 5000 + RULES.window))
    )
    assert (plain_ones(bench), bench.partition.join.open_requests) == (2, 3)
    bench.silence()
    bench.take()
    assert [request_id for request_id, *_ in said(bench)] == ["a", "b", "ahead"]


@pytest.mark.parametrize("bench", [Bench(rules=EARLY), Bench(**SCORED)])
def test_where_more_is_to_be_said_than_a_block_none_is_a_slot(bench):
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 5000, scores=[0.5] * 6)))
    assert plain_ones(bench) == 0
    assert bench.partition.join.open_requests == 1


def test_one_too_large_for_kafka_is_told_of_where_its_log_lies():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(Heartbeat(4000), feature_log("a", 5000)))
    bench.silence()
    (parcel,) = bench.partition.parcels()
    assert not isinstance(parcel.requests[0], Request)
    bench.partition.undeliverable(parcel)
    bench.outgoing += bench.partition.parcels()
    assert letters(bench) == [("logs", 3, 0, 1, "too_large")]
    assert plain_ones(bench) == 0
    bench.commit()
    assert bench.committed == [1, 0]


def test_more_than_may_be_in_memory_are_objects_that_leave_it():
    bench = Bench(rules=RULES.__class__(1000, 100_000, RULES.tasks, RULES.kinds, open_limit=2))
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 5000), feature_log("b", 5000)))
    bench.receive(Side.FEATURES, 1, logs(feature_log("c", 5000)))
    assert (plain_ones(bench), bench.counts.spilled) == (2, 1)
    bench.silence()
    bench.take()
    assert [request_id for request_id, *_ in said(bench)] == ["a", "b", "c"]

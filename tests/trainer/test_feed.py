"""The feed merges partitions by event time, keeps each in order, and gives a run again."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.codec import TRAINING_SAMPLES
from tests.trainer.fakes import Clock, FakeLog
from tests.trainer.make import TASKS, block, config, records
from trainer.entries import Entry, Position, Run
from trainer.errors import RecoveryError
from trainer.feed import Feed
from trainer.messages import MessageReader


def feed_of(times: dict[int, list[list[int]]], ahead: int = 2) -> Feed:
    """A feed of messages whose blocks have these event times, by partition."""
    messages = {
        p: [
            TRAINING_SAMPLES.encode([block(0, partition=p, event_time=t) for t in message])
            for message in partition
        ]
        for p, partition in times.items()
    }
    clock = Clock()
    reader = MessageReader("samples", config().features, TASKS)
    return Feed(FakeLog(messages, reader, clock, ahead), range(2), clock)


def drain(feed: Feed) -> list[Entry]:
    entries = []
    while (entry := feed.next(1.0)) is not None:
        entries.append(entry)
    return entries


def times(entries: list[Entry]) -> list[int]:
    return [record.event_time for record in records(entries)]


@given(
    lists=st.lists(
        st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=3), max_size=6), min_size=2, max_size=2
    ),
    ahead=st.integers(1, 4),
)
def test_sorted_partitions_come_out_sorted_and_whole(lists, ahead):
    ordered = []
    for partition in lists:
        flat = iter(sorted(t for message in partition for t in message))
        ordered.append([[next(flat) for _ in message] for message in partition])
    feed = feed_of(dict(enumerate(ordered)), ahead)
    feed.start({})
    entries = drain(feed)
    assert times(entries) == sorted(t for partition in ordered for message in partition for t in message)
    for number in range(2):
        positions = [e.position for e in entries if e.partition == number]
        assert positions == sorted(set(positions))


def test_what_is_there_is_had_without_waiting():
    feed = feed_of({0: [[1], [2], [3]], 1: [[2]]}, ahead=1)
    feed.start({})
    entries = []
    for _ in range(10):
        entry = feed.next(0.0)
        entries += [] if entry is None else [entry]
    assert times(entries) == [1, 2, 2, 3]


def test_starts_within_an_envelope():
    feed = feed_of({0: [[1, 2, 3]], 1: []})
    feed.start({0: Position(0, 2)})
    assert times(drain(feed)) == [3]


def test_takes_a_run_and_goes_on_after_it():
    feed = feed_of({0: [[1, 5], [6, 7]], 1: [[2, 3], [4, 8]]})
    feed.start({})
    first = feed.take(Run(1, Position(0), Position(1, 1)), 1.0)
    second = feed.take(Run(0, Position(0), Position(0, 1)), 1.0)
    assert (times(first), times(second)) == ([2, 3, 4], [1])
    assert times(drain(feed)) == [5, 6, 7, 8]


def test_a_run_that_is_gone_is_refused():
    feed = feed_of({0: [[1]], 1: []})
    feed.start({})
    with pytest.raises(RecoveryError, match="cannot be read again within 5 s"):
        feed.take(Run(0, Position(0), Position(9)), 5.0)


def test_a_gap_is_told(caplog):
    feed = feed_of({0: [[1], [2]], 1: []})
    feed.start({})
    source = feed._source
    assert isinstance(source, FakeLog)
    source._next[0] = 1
    with caplog.at_level(logging.WARNING):
        assert times(drain(feed)) == [2]
    assert "partition 0: samples from" in caplog.text


def test_nothing_comes_of_nothing():
    feed = feed_of({0: [], 1: []})
    feed.start({})
    assert feed.next(0.5) is None

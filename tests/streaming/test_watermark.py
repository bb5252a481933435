"""Event time follows the slower topic, passes idle ones, and goes on with the clock when both are silent."""

from __future__ import annotations

import pytest

from streaming.watermark import Side, Watermark

DISORDER, IDLE = 100, 2000


def silence(clock, sides, start, end):
    """Word every quarter of a second that there is nothing to read."""
    for at in [*range(start, end, 250), end]:
        for side in sides:
            clock.drained(side, at)


@pytest.fixture
def clock() -> Watermark:
    return Watermark(DISORDER, IDLE, now=0)


def test_nothing_is_known_at_first(clock):
    assert clock.value is None


def test_one_topic_says_nothing_while_the_other_may_be_behind(clock):
    clock.observe(Side.FEATURES, 5000, now=10)
    assert clock.value is None


def test_the_slower_topic_counts_less_the_disorder(clock):
    clock.observe(Side.FEATURES, 5000, now=10)
    clock.observe(Side.ACTIONS, 4000, now=20)
    assert clock.value == 3900
    clock.observe(Side.ACTIONS, 6000, now=30)
    assert clock.value == 4900


def test_it_never_goes_back(clock):
    clock.observe(Side.FEATURES, 5000, now=10)
    clock.observe(Side.ACTIONS, 5000, now=10)
    clock.observe(Side.ACTIONS, 1000, now=20)
    assert clock.value == 4900


def test_a_message_without_a_time_is_an_arrival_only(clock):
    clock.observe(Side.FEATURES, None, now=10)
    clock.observe(Side.ACTIONS, 5000, now=10)
    assert clock.value is None
    assert clock.quiet_since(Side.FEATURES) == 10


def test_silence_without_word_from_kafka_holds_it_back(clock):
    clock.observe(Side.FEATURES, 5000, now=10)
    clock.observe(Side.FEATURES, 9000, now=100_000)
    assert clock.value is None


def test_a_drained_topic_stops_holding_back_after_the_idle_time(clock):
    clock.observe(Side.ACTIONS, 1000, now=0)
    clock.observe(Side.FEATURES, 5000, now=3000)
    silence(clock, [Side.ACTIONS], 0, IDLE - 1)
    assert clock.value == 900
    clock.drained(Side.ACTIONS, at=IDLE)
    assert clock.value == 4900


def test_word_older_than_the_last_message_is_no_evidence(clock):
    clock.observe(Side.FEATURES, 5000, now=10)
    clock.observe(Side.ACTIONS, 1000, now=5000)
    silence(clock, [Side.ACTIONS], 1000, 4900)
    assert clock.value == 900


def test_a_message_wakes_an_idle_topic(clock):
    clock.observe(Side.FEATURES, 5000, now=3000)
    silence(clock, [Side.ACTIONS], 0, 3000)
    assert clock.value == 4900
    clock.observe(Side.ACTIONS, 6000, now=3100)
    clock.observe(Side.FEATURES, 9000, now=3200)
    assert clock.value == 5900


def test_both_idle_it_goes_on_with_the_clock_from_that_moment(clock):
    clock.observe(Side.FEATURES, 5000, now=0)
    clock.observe(Side.ACTIONS, 4000, now=500)
    silence(clock, Side, 500, IDLE)
    assert clock.value == 3900, "actions have been silent for 1.5 s only"
    for now, expected in ((2500, 4900), (2800, 5200), (3600, 6000)):
        silence(clock, Side, now, now)
        assert clock.value == expected


def test_time_without_word_from_kafka_does_not_count_as_silence(clock):
    for side in Side:
        clock.observe(side, 5000, now=0)
    silence(clock, Side, 0, IDLE)
    assert clock.value == 4900
    silence(clock, Side, 60_000, 61_000)
    assert clock.value == 4900, "the broker was away: silent for 2 s, idle from now on"
    silence(clock, Side, 61_000, 62_000)
    assert clock.value == 5900


def test_without_any_event_there_is_no_time_to_go_on_from(clock):
    silence(clock, Side, 0, 10_000)
    assert clock.value is None

"""Which samples count as served when, and what the percentiles are over."""

from __future__ import annotations

import numpy as np
import pytest

from parameter_server.delta import Delta, Span, Trace
from schema.stages import Traced, pack, unpack
from serving.freshness import Freshness
from serving.stages import Stages
from serving.traces import Traces, covered_step


def delta(shard: int, steps: dict[str, int], traces: list[tuple[int, list[int]]]) -> Delta:
    span = Span(shard, 1, 0, 9, full=False)
    return Delta(span, steps, tuple(Trace(9, s, np.array(t, np.int64)) for s, t in traces), 0, ())


def test_percentiles_are_over_what_was_completed_since():
    freshness = Freshness()
    freshness.observe(np.arange(1000, 1101, dtype=np.int64) * 1000, 1_200_000)
    summary = freshness.summary()
    assert (summary.count, summary.p50) == (101, pytest.approx(150.0))
    assert summary.p99 == pytest.approx(199.0)
    late = freshness.summary(since=1_099_000)
    assert (late.count, late.p50) == (2, pytest.approx(100.5))


def test_without_observations_there_are_no_percentiles():
    freshness = Freshness()
    freshness.observe(np.empty(0, np.int64), 5)
    assert (freshness.summary().count, freshness.summary().p99) == (0, None)


def test_only_the_last_observations_are_kept():
    freshness = Freshness(capacity=4)
    for served in (1000, 2000, 3000):
        freshness.observe(np.zeros(3, np.int64), served)
    assert freshness.summary().count == 4
    assert freshness.summary().p50 == pytest.approx(3.0)
    freshness.observe(np.zeros(9, np.int64), 7000)
    assert (freshness.summary().count, freshness.summary().p50) == (4, pytest.approx(7.0))


def test_a_clock_that_is_behind_gives_no_negative_age():
    freshness = Freshness()
    freshness.observe(np.array([2000], np.int64), 1000)
    assert freshness.summary().p50 == 0


def test_a_step_is_learned_once_every_shard_has_it_and_counts_once():
    traces = Traces(2)
    both = [(7, [70, 71]), (8, [80])]
    assert traces.learned([delta(0, {"t": 8}, both), delta(1, {"t": 7}, both[:1])]).tolist() == [70, 71]
    assert traces.learned([delta(1, {"t": 8}, both[1:])]).tolist() == [80]
    assert traces.learned([delta(0, {"t": 8}, both), delta(1, {"t": 8}, both)]).tolist() == []


def test_steps_pushed_again_to_a_restored_shard_count_as_new():
    traces = Traces(1)
    assert traces.learned([delta(0, {"t": 9}, [(9, [90])])]).tolist() == [90]
    assert traces.learned([delta(0, {"t": 4}, [])]).tolist() == []
    assert traces.learned([delta(0, {"t": 5}, [(5, [99])])]).tolist() == [99]


@pytest.mark.parametrize(
    ("steps", "covered"),
    [
        ([{}, {}], -1),
        ([{"a": 3}, {}], -1),
        ([{"a": 3}, {"a": 5}], 3),
        ([{"a": 3, "old": 1}, {"a": 5, "old": 1}], 3),
    ],
)
def test_covered_step(steps, covered):
    assert covered_step(steps) == covered


def test_a_sample_is_traced_from_its_event_to_the_first_feed():
    stages = Stages()
    stages.served(500)
    stages.applied(
        unpack(np.array(pack([Traced(1000, 6000, 6200), Traced(2000, 7000, 7200)]), np.int64)), 8000
    )
    assert stages.summary() == {"count": 0}, "nothing has been served with them yet"
    stages.served(8100)
    stages.served(9999)
    summary = stages.summary()
    assert summary["count"] == 2
    assert summary["completed"]["p50"] == pytest.approx(5.0)
    assert summary["trained"]["p99"] == pytest.approx(0.2)
    assert summary["applied"]["p50"] == pytest.approx(1.3)
    assert summary["served"]["p50"] == pytest.approx(0.1)
    assert summary["completed_to_served"]["p50"] == pytest.approx(1.6)
    assert summary["event_to_served"]["p50"] == pytest.approx(6.6)


def test_times_that_are_no_traces_are_none():
    assert unpack(np.arange(4)).shape == (0, 3)
    assert unpack(np.empty(0, np.int64)).shape == (0, 3)

"""Which samples count as served when, and what the percentiles are over."""

from __future__ import annotations

import numpy as np
import pytest

from parameter_server.delta import Delta, Span, Trace
from schema.stages import Traced, pack, unpack
from serving.freshness import Freshness
from serving.stages import Stages
from serving.traces import Traces, covered_steps


def delta(shard: int, steps: dict[str, int], traces: list[tuple[int, list[int]]]) -> Delta:
    span = Span(shard, 1, 0, 9, full=False)
    return Delta(span, steps, tuple(Trace(9, "t", s, np.array(t, np.int64)) for s, t in traces), 0, ())


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


def test_a_sample_is_served_by_the_first_feed_after_it_was_applied():
    stages = Stages()
    stages.applied(unpack(np.array(pack([Traced(0, 5000, 5100, 6000, 64), Traced(0, 5, 6, 7)]))), 6500)
    assert (stages.summary(), stages.traces()) == ({"count": 0}, [])
    stages.served(7000)
    stages.served(9000)
    assert stages.traces() == [
        {
            "trace": f"{64:016x}",
            "event": 0,
            "completed": 5000,
            "joined": 5100,
            "trained": 6000,
            "applied": 6500,
            "served": 7000,
        }
    ]
    found = stages.summary()
    assert found["count"] == 2
    assert found["event_to_served"] == {"p50": 7.0, "p99": 7.0}


def test_without_feeds_the_newest_samples_wait_and_no_more_than_are_kept():
    stages = Stages(capacity=3)
    for number in range(50):
        stages.applied(unpack(np.array(pack([Traced(number, 60, 70, 80), Traced(number, 60, 70, 80)]))), 90)
    assert len(stages._pending) == 3
    stages.served(100)
    assert stages.summary()["count"] == 3
    assert stages.summary()["event_to_served"]["p50"] == 0.051


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


def test_the_steps_of_two_trainers_are_counted_apart():
    traces = Traces(1)
    both = (
        Trace(1, "a", 3, np.array([30])),
        Trace(2, "b", 3, np.array([31])),
        Trace(3, "b", 9, np.array([90])),
    )
    found = traces.learned([Delta(Span(0, 1, 0, 9, full=False), {"a": 3, "b": 3}, both, 0, ())])
    assert found.tolist() == [30, 31]


@pytest.mark.parametrize(
    ("steps", "covered"),
    [
        ([{}, {}], {}),
        ([{"a": 3}, {}], {}),
        ([{"a": 3}, {"a": 5}], {"a": 3}),
        ([{"a": 3, "old": 1}, {"a": 5, "old": 1}], {"a": 3, "old": 1}),
    ],
)
def test_covered_steps(steps, covered):
    assert covered_steps(steps) == covered

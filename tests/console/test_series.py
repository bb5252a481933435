"""What is plotted of the roles' reports."""

from __future__ import annotations

import pytest

from console.charts import series as plotted
from console.charts import stage_series
from console.roles import Snapshot
from console.series import Series, newest_stages, recovery_points, replica_rows
from tests.console.fakes import replica, trainer


def at(seconds: float, samples: int, **changes) -> Snapshot:
    values = {
        "trainer": trainer(samples),
        "joiners": ({"feature_logs": samples, "actions": 1, "open_requests": 4},),
        "shards": ({"rows": {"embedding": 10}}, None),
        "replicas": (replica(samples // 10),),
    }
    return Snapshot(seconds, **(values | changes))


def test_counts_become_rates():
    series = Series()
    series.add(at(10, 100))
    series.add(at(12, 300))
    assert series.lines("throughput")["samples trained"] == [(10_000, None), (12_000, 100.0)]
    assert series.latest("throughput", "feeds") == 10.0
    assert series.latest("lag", "messages to train") == 3
    assert series.lines("rows")["shard 1"] == [(10_000, None), (12_000, None)]


@pytest.mark.parametrize("second", [at(12, 50), at(12, 300, trainer=None), at(10, 300)])
def test_a_restart_or_an_absence_is_a_gap(second):
    series = Series()
    series.add(at(10, 100))
    series.add(second)
    assert series.latest("throughput", "samples trained") is None


def test_evictions_are_shown_beside_the_rows():
    series = Series()
    series.add(at(10, 1, shards=({"rows": {"t": 7}, "evictions": 30}, {"rows": {"t": 8}, "evictions": 5})))
    assert [series.latest("rows", line) for line in ("shard 0", "shard 1", "evicted")] == [7, 8, 35]


def test_recovery_points_are_those_that_the_trainer_tells_of():
    assert recovery_points(at(1, 1)) == {4: "4: step 160, 16,000 rows", 3: "3: step 120, 12,000 rows"}
    assert recovery_points(at(1, 1, trainer=None)) is None
    assert recovery_points(at(1, 1, trainer={"recovery_points": []})) == {}


def test_old_points_are_forgotten():
    series = Series(kept=3)
    for second in range(9):
        series.add(at(second, second))
    assert [time for time, _ in series.lines("auc")["click"]] == [6000, 7000, 8000]


def test_the_truth_is_shown_where_there_is_a_simulation():
    series = Series()
    series.add(at(1, 1))
    assert series.lines("interest") == {}
    simulation = {"served_interest": {"live": 0.4, "frozen": None}, "best_interest": 0.8}
    series.add(at(2, 1, simulation=simulation))
    assert series.latest("interest", "live") == 0.4
    assert series.latest("interest", "best possible") == 0.8
    assert series.latest("interest", "frozen") is None


def test_freshness_is_of_a_replica_that_takes_rounds():
    slow = replica(5, paused=True, freshness_stages={"count": 99, "served": {"p50": 50, "p99": 50}})
    snapshot = at(1, 1, replicas=(slow, None, replica(5)))
    assert newest_stages(snapshot)["count"] == 5
    bars = stage_series(newest_stages(snapshot))
    assert [bar["data"] for bar in bars] == [[0.9, 0.4]] * 4
    assert all(bar["data"] == [0.0, 0.0] for bar in stage_series({}))


def test_a_row_for_every_replica():
    spooled = replica(5, outboxes={"actions": {"waiting": 1, "spooled_bytes": 2048}}, seconds_since_sync=None)
    snapshot = at(1, 1, replicas=(spooled, None, replica(5, paused=True), replica(5, ready=False)))
    rows = replica_rows(snapshot, [False, False, True, False])
    assert [row["state"] for row in rows] == ["ready", "away", "frozen", "not ready"]
    assert (rows[0]["spooled"], rows[0]["behind"], rows[0]["clocks"]) == ("2 KB", "-", "41 · 42")
    assert snapshot.answering == (6, 8)


def test_a_trend_is_marked():
    lines = plotted({"live": [(1.0, 0.5)], "p": []}, [5.0])
    assert lines[0]["markLine"]["data"] == [{"xAxis": 5.0}]
    assert "markLine" not in lines[1]
    assert plotted({}, [5.0]) == []

"""The report's fields and bars, from what a run came to."""

from __future__ import annotations

import json
from typing import Any

import pytest

from demo.collect import Snapshot
from demo.report import Outcome, build_report

TASKS = ("click", "long_view", "like")


def metrics(auc: float, calibration: float = 1.0) -> dict[str, Any]:
    each = {"auc": auc, "normalised_entropy": 0.9, "calibration": calibration, "log_loss": 0.5}
    return {name: dict.fromkeys(TASKS, value) for name, value in each.items()} | {"rows": 10}


TRAINER = {
    "step": 9,
    "samples_trained": 100,
    "duplicates_dropped": 3,
    "tasks": list(TASKS),
    "overall": metrics(0.70),
    "period": metrics(0.75),
    "baseline": {"overall": metrics(0.69), "period": metrics(0.72)},
    "windows": [],
    "lost": [],
    "lag": 0,
}
REPLICAS = (
    {"freshness": {"count": 5, "p50": 1.0, "p99": 2.0}},
    None,
    {"freshness": {"count": 5, "p50": 0.5, "p99": 4.0}},
)
FINAL = Snapshot(
    TRAINER, ({"feature_logs": 10},), ({"rows": {"embedding": 7}},), REPLICAS, {"trainer": 1, "kafka": 0}
)
GOOD = Outcome("replay", 10.0, {"exposures": 100}, 100, {}, {"shard-0": True, "shard-1": True}, FINAL)


def test_the_named_fields_are_there() -> None:
    report = build_report(GOOD)
    assert report["exposures"] == report["samples_trained"] == 100
    assert report["duplicates_dropped"] == 3
    assert report["dead_letters"] == 0
    assert report["replica_digest_matches"] == {"shard-0": True, "shard-1": True}
    assert report["auc"]["click"] == 0.75, "the configured period, where there is one"
    assert report["auc_overall"]["click"] == 0.70
    assert report["baseline_auc"]["long_view"] == 0.72
    assert report["freshness_seconds"]["p99"] == 4.0, "the worst replica's"
    assert report["restarts"] == {"trainer": 1}
    assert all(bar["met"] for bar in report["bars"].values())
    json.dumps(report)


def changed(outcome: Outcome = GOOD, trainer: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    final = Snapshot(TRAINER | (trainer or {}), FINAL.joiners, FINAL.shards, FINAL.replicas, FINAL.restarts)
    values = {f: getattr(outcome, f) for f in outcome.__dataclass_fields__} | {"final": final} | fields
    return build_report(Outcome(**values))["bars"]


@pytest.mark.parametrize(
    ("bar", "bars"),
    [
        ("samples_trained_over_exposures", changed(exposures=101)),
        ("samples_trained_over_exposures", changed(exposures=99)),
        ("dead_letters", changed(dead_letters={"checksum": 1})),
        ("replica_digests_matching", changed(digests_match={"shard-0": True, "shard-1": False})),
        ("calibration_like", changed(trainer={"period": metrics(0.75, calibration=1.06)})),
        ("auc_gain_click", changed(trainer={"period": metrics(0.71)})),
        ("auc_gain_click", changed(trainer={"period": None, "baseline": None})),
        ("samples_trained_over_exposures", changed(exposures=0)),
    ],
)
def test_a_bar_that_is_missed_says_so(bar: str, bars: dict[str, Any]) -> None:
    assert not bars[bar]["met"]


def test_freshness_is_held_to_its_bar_at_steady_load_only() -> None:
    slow = Snapshot(TRAINER, replicas=({"freshness": {"count": 5, "p50": 1.0, "p99": 11.0}},))
    live = build_report(Outcome("simulated", 10.0, {}, 100, {}, {}, slow))
    assert not live["bars"]["freshness_p99_seconds"]["met"]
    replayed = build_report(Outcome("replay", 10.0, {}, 100, {}, {}, slow))
    assert "freshness_p99_seconds" not in replayed["bars"]
    assert replayed["freshness_seconds"]["kind"] == "backlog"


def test_a_run_whose_trainer_is_gone_still_has_a_report() -> None:
    report = build_report(Outcome("simulated", 10.0, {}, 5, {}, {"shard-0": False}, Snapshot()))
    assert not any(bar["met"] for name, bar in report["bars"].items() if name != "dead_letters")

"""The report's fields and bars, from what a run came to."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from demo.collect import Snapshot
from demo.interest import Truth
from demo.plan import Plan, plan
from demo.report import Outcome, build_report
from schema.config_file import load_config

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
    "returns": 0,
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


def test_traces_are_those_that_were_followed_to_the_end() -> None:
    common = {"event": 1, "completed": 2, "joined": 3, "trained": 4}
    trained = [{"trace": trace, "published": 5} | common for trace in ("a", "b")]
    served = [{"trace": "a", "applied": 6, "served": 7} | common]
    replicas = ({"freshness": {"count": 0}, "traces": served}, None)
    final = dataclasses.replace(FINAL, trainer=TRAINER | {"traces": trained}, replicas=replicas)
    (way,) = build_report(dataclasses.replace(GOOD, final=final))["freshness_seconds"]["traces"]
    assert (way["trace"], way["published"], way["served"]) == ("a", 5, 7)


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


def test_what_was_retrieved_is_of_all_that_was_shown() -> None:
    recent = {"recall": 0.4, "recall_of_popular": 0.2, "items": 90.0}
    learned = {"recent": recent, "overall": recent, "items": 2000, "version": 7, "largest_path": 12}
    seconds = {"p50": 0.0003, "p99": 0.001}
    shown = ({"popular": 10, "recent": 20, "retrieved": 70}, {"popular": 90, "recent": 10, "retrieved": 0})
    more = [{**REPLICAS[0], "shown": counts, "retrieval": {"seconds": seconds}} for counts in shown]
    replicas = (*more, None)
    final = Snapshot(TRAINER | {"retrieval": learned}, (), (), replicas)
    found = build_report(Outcome("simulated", 1.0, {}, 100, {}, {}, final))["retrieval"]
    assert found["share_of_shown"] == {"popular": 0.5, "recent": 0.15, "retrieved": 0.35}
    assert (found["recall"], found["recall_of_popular"]) == (0.4, 0.2)
    assert found["structure"] == {"items": 2000, "version": 7, "largest_path": 12}
    assert build_report(GOOD)["retrieval"] is None


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


def truth(live: float, frozen: float, *, dip: float = 0.0) -> Truth:
    """Feeds of 40 users over 100 s, every other user's by the frozen replica; the live ones dip at 50 s."""
    n = 4_000
    times, users = np.arange(n) * 25, np.arange(n) % 40
    noise = np.random.default_rng(1).normal(0, 0.01, n)
    interest = np.where(users % 2 == 1, frozen, live) + noise
    interest[(times >= 50_000) & (times < 60_000) & (users % 2 == 0)] -= dip
    return Truth(times, users, users % 2 == 1, interest)


def compared(account: Truth) -> dict[str, Any]:
    live = {"freshness": {"count": 5, "p50": 1.0, "p99": 2.0}}
    frozen = {"freshness": {"count": 5, "p50": 90.0, "p99": 99.0}, "paused": True, "paused_at": 10_000}
    final = Snapshot(TRAINER, (), (), (live, frozen))
    driver = {"trends": [{"at": 50_000, "topic": 3, "strength": 0.7}]}
    return build_report(Outcome("simulated", 100.0, driver, 100, {}, {"shard-0": True}, final, account))


def test_the_comparison_with_a_frozen_replica() -> None:
    report = compared(truth(0.5, 0.4, dip=0.2))
    served = report["served_interest"]
    assert served["live"] == pytest.approx(0.5 - 0.2 / 9, abs=0.005)
    assert served["low"] < served["difference"] == pytest.approx(0.1 - 0.2 / 9, abs=0.005)
    assert served["low"] > 0.05
    assert served["high"] < 0.11
    assert served["users"] == {"live": 20, "frozen": 20}
    assert report["trend_recovery_seconds"] == pytest.approx(11.5, abs=0.6)
    assert report["trend"]["lowest"] == pytest.approx(0.3, abs=0.02)
    assert report["bars"]["served_interest.low"]["met"]
    assert report["bars"]["trend_recovery_seconds"]["met"]
    assert report["freshness_seconds"]["p99"] == 2.0, "the frozen replica's does not count"


def test_a_comparison_that_goes_the_other_way_says_so() -> None:
    report = compared(truth(0.4, 0.5))
    assert report["served_interest"]["high"] < 0
    assert not report["bars"]["served_interest.low"]["met"]


def test_a_loss_that_lasts_has_no_recovery() -> None:
    account = truth(0.5, 0.4)
    account.interest[account.times >= 50_000] -= 0.2
    report = compared(account)
    assert report["trend_recovery_seconds"] is None
    assert not report["bars"]["trend_recovery_seconds"]["met"]


def test_without_a_comparison_its_fields_are_null() -> None:
    assert build_report(GOOD)["served_interest"] is None
    assert build_report(GOOD)["trend_recovery_seconds"] is None
    empty = Truth(*(np.zeros(0, kind) for kind in (np.int64, np.int64, bool, float)))
    assert compared(empty)["served_interest"] is None


def test_a_run_that_is_long_enough_has_a_frozen_replica_and_a_trend() -> None:
    config = load_config(Path("configs/local.yaml"))
    assert plan(config, 59.0, 1) == Plan(config)
    compared_with = plan(config, 240.0, 12345)
    assert compared_with.trend_after == 120.0
    *live, frozen = compared_with.config.serving.replicas
    assert tuple(live) == config.serving.replicas
    assert (frozen.port, frozen.freeze_after_seconds) == (12345, 30.0)
    again = plan(compared_with.config, 240.0, 999)
    assert again.config.serving.replicas == compared_with.config.serving.replicas


def test_a_run_whose_trainer_is_gone_still_has_a_report() -> None:
    report = build_report(Outcome("simulated", 10.0, {}, 5, {}, {"shard-0": False}, Snapshot()))
    assert not any(bar["met"] for name, bar in report["bars"].items() if name != "dead_letters")

"""The demo's report: the fields that stay, the bars they are held to, and what they were measured on."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Final

from demo.collect import Report, Snapshot
from demo.interest import Truth, recovery, served_interest
from runtime.environment import machine, versions
from schema.stages import STAGES, ways

_EVENT_TO_SERVED: Final = (
    "from what completed a sample (its window's closing, as Kafka had it) to the first moment at which a "
    "replica serves with parameters that have learned from it"
)
_TRACES: Final = 5
_BACKLOG: Final = (
    "; the log was replayed at full speed, so this is mostly the time samples waited in the backlog"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    mode: str
    seconds: float
    driver: dict[str, Any]
    exposures: int
    dead_letters: dict[str, int]
    digests_match: dict[str, bool]
    final: Snapshot
    truth: Truth | None = None


def build_report(outcome: Outcome) -> Report:
    """The report of a run, in the shape of a benchmark's, with the demo's named fields beside it."""
    fields = _fields(outcome) | _interest(outcome)
    return {
        "benchmark": "demo",
        "mode": outcome.mode,
        **fields,
        "bars": _bars(outcome, fields),
        "measured": _measured(outcome),
        "machine": machine(),
        "versions": versions(),
    }


def _fields(outcome: Outcome) -> Report:
    trainer = outcome.final.trainer or {}
    overall = trainer.get("overall") or {}
    period = trainer.get("period") or overall
    baseline = trainer.get("baseline") or {}
    return {
        "exposures": outcome.exposures,
        "samples_trained": outcome.final.samples_trained,
        "late_positives": trainer.get("late_positives", 0),
        "duplicates_dropped": trainer.get("duplicates_dropped"),
        "dead_letters": sum(outcome.dead_letters.values()),
        "replica_digest_matches": outcome.digests_match,
        "auc": period.get("auc"),
        "normalised_entropy": period.get("normalised_entropy"),
        "calibration": period.get("calibration"),
        "auc_overall": overall.get("auc"),
        "baseline_auc": (baseline.get("period") or baseline.get("overall") or {}).get("auc"),
        "baseline_auc_overall": (baseline.get("overall") or {}).get("auc"),
        "freshness_seconds": _freshness(outcome),
        "user_auc": trainer.get("user_auc"),
        "retrieval": _retrieval(outcome),
        "restarts": {name: n for name, n in outcome.final.restarts.items() if n},
        "returns": trainer.get("returns", 0),
    }


def _retrieval(outcome: Outcome) -> Report | None:
    """What the first stage came to; None where it is not configured, or no trainer answers.

    `recall` is of the newest engagements, before they were learned from: how many lay on their user's beam;
    `recall_of_popular` asks as many of the most popular items as lay there.
    """
    learned = (outcome.final.trainer or {}).get("retrieval")
    if not learned:
        return None
    replicas = [r for r in outcome.final.replicas if r]
    shown: Counter[str] = Counter()
    for replica in replicas:
        shown.update(replica.get("shown") or {})
    total = sum(shown.values())
    seconds = [(r.get("retrieval") or {}).get("seconds") for r in replicas]
    return {
        "share_of_shown": {origin: count / total for origin, count in shown.items()} if total else None,
        **(learned.get("recent") or {}),
        "structure": {name: learned.get(name) for name in ("items", "version", "largest_path")},
        "seconds": seconds,
    }


def _interest(outcome: Outcome) -> Report:
    """What the comparison with a frozen replica came to; None for what a run has not compared."""
    truth, frozen_at = outcome.truth, _frozen_at(outcome)
    trends = outcome.driver.get("trends") or []
    compared = recovered = None
    if truth is not None and frozen_at is not None and len(truth.times):
        compared = served_interest(truth, frozen_at, int(truth.times[-1]) + 1)
    if truth is not None and trends:
        recovered = recovery(truth, int(trends[0]["at"]))
    return {
        "served_interest": compared,
        "trend_recovery_seconds": None if recovered is None else recovered.seconds,
        "trend": None if recovered is None else {**trends[0], **asdict(recovered)},
    }


def _frozen_at(outcome: Outcome) -> int | None:
    """When the last of the frozen replicas stopped learning, in Unix ms."""
    times = [r.get("paused_at") for r in outcome.final.replicas if r]
    return max((int(time) for time in times if time is not None), default=None)


def _freshness(outcome: Outcome) -> Report:
    """Of the replica whose p99 is worst, of those that take rounds."""
    taking = [r for r in outcome.final.replicas if r and not r.get("paused")]
    found = [r["freshness"] for r in taking if r["freshness"].get("count")]
    worst = max(found, key=lambda f: float(f["p99"]), default={"count": 0, "p50": None, "p99": None})
    steady = outcome.mode == "simulated"
    return {
        **worst,
        "stages": _stages(taking),
        "traces": _traces(outcome.final.trainer, taking),
        "kind": "steady load" if steady else "backlog",
        "means": _EVENT_TO_SERVED + ("" if steady else _BACKLOG),
    }


def _stages(replicas: list[Report]) -> Report:
    """The way of traced samples, stage by stage, at the replica that has served most of them."""
    found = [r.get("freshness_stages") or {} for r in replicas]
    return max(found, key=lambda stages: int(stages.get("count", 0)), default={})


def _traces(trainer: Report | None, replicas: list[Report]) -> list[Report]:
    """The last traced samples that were followed through every stage: times in Unix ms."""
    told = ways((trainer or {}).get("traces", []), *(r.get("traces", []) for r in replicas))
    return [way for way in told if all(stage in way for stage in STAGES)][-_TRACES:]


def _bars(outcome: Outcome, fields: Report) -> Report:
    exposures = outcome.exposures
    bars = {
        "samples_trained_over_exposures": _bar(
            fields["samples_trained"] / exposures if exposures else None, at_least=1, at_most=1
        ),
        "dead_letters": _bar(fields["dead_letters"], at_most=0),
        "replica_digests_matching": _bar(
            sum(outcome.digests_match.values()) / max(1, len(outcome.digests_match)), at_least=1
        ),
    }
    if outcome.mode == "simulated":
        bars["freshness_p99_seconds"] = _bar(fields["freshness_seconds"]["p99"], at_most=10)
        beyond = (fields["freshness_seconds"]["stages"].get("completed_to_served") or {}).get("p99")
        if beyond is not None:
            bars["freshness_seconds.p99_beyond_emission"] = _bar(beyond, at_most=5)
        if fields["served_interest"] is not None:
            bars["served_interest.low"] = _bar(fields["served_interest"]["low"], at_least=0)
        if fields["trend"] is not None:
            bars["trend_recovery_seconds"] = _bar(fields["trend_recovery_seconds"])
        return bars
    for task, value in (fields["calibration"] or {}).items():
        bars[f"calibration_{task}"] = _bar(value, at_least=0.95, at_most=1.05)
    for task in ("click", "long_view"):
        auc, base = ((fields[name] or {}).get(task) for name in ("auc", "baseline_auc"))
        bars[f"auc_gain_{task}"] = _bar(None if auc is None or base is None else auc - base, at_least=0)
    return bars


def _bar(value: float | None, at_least: float | None = None, at_most: float | None = None) -> Report:
    bounds = {"at_least": at_least, "at_most": at_most}
    met = (
        value is not None
        and (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
    )
    return {"value": value, **{k: v for k, v in bounds.items() if v is not None}, "met": met}


def _measured(outcome: Outcome) -> Report:
    trainer = outcome.final.trainer or {}
    return {
        "seconds": round(outcome.seconds, 1),
        "samples_per_second_of_the_whole_run": outcome.final.samples_trained / outcome.seconds,
        "driver": outcome.driver,
        "dead_letters_by_reason": outcome.dead_letters,
        "table_rows": [s["rows"] for s in outcome.final.shards if s],
        "steps": trainer.get("step"),
        "windows": trainer.get("windows", []),
        "replicas": list(outcome.final.replicas),
    }

"""What is plotted: the roles' reports, turned into points of named lines over time. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from console.roles import Report, Snapshot

KEPT: Final = 600
"""Points kept: ten minutes at one a second."""

Point = tuple[float, float | None]
"""Unix milliseconds, and a value; None is a gap."""


class Series:
    """The last `kept` points of every line, by chart and by line."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lines: dict[str, dict[str, deque[Point]]] = {}
        self._last: Snapshot | None = None

    def lines(self, chart: str) -> dict[str, list[Point]]:
        """The lines of a chart."""
        return {name: list(points) for name, points in self._lines.get(chart, {}).items()}

    def latest(self, chart: str, line: str) -> float | None:
        """The newest value of a line."""
        points = self._lines.get(chart, {}).get(line)
        return points[-1][1] if points else None

    def add(self, snapshot: Snapshot) -> None:
        """Take in a snapshot, later than all before."""
        for chart, line, value in (*self._rates(snapshot), *_levels(snapshot)):
            points = self._lines.setdefault(chart, {}).setdefault(line, deque(maxlen=self._kept))
            points.append((snapshot.at * 1000, None if value is None else round(value, 5)))
        self._last = snapshot

    def _rates(self, snapshot: Snapshot) -> Iterable[tuple[str, str, float | None]]:
        for name, count in _COUNTS.items():
            yield "throughput", name, self._rate(snapshot, count)

    def _rate(self, snapshot: Snapshot, count: Callable[[Snapshot], float | None]) -> float | None:
        """The growth of a count by second; None across a restart, or where either end is unknown."""
        if self._last is None or snapshot.at <= self._last.at:
            return None
        now, before = count(snapshot), count(self._last)
        if now is None or before is None or now < before:
            return None
        return (now - before) / (snapshot.at - self._last.at)


def _total(reports: Iterable[Report | None], *names: str) -> float | None:
    """The sum of some counts of reports; None while one of them is missing."""
    total = 0.0
    for report in reports:
        if report is None:
            return None
        total += sum(report.get(name, 0) for name in names)
    return total


_COUNTS: Final[dict[str, Callable[[Snapshot], float | None]]] = {
    "events": lambda s: _total(s.joiners, "feature_logs", "actions"),
    "samples trained": lambda s: _total([s.trainer], "samples_trained"),
    "feeds": lambda s: _total(s.replicas, "feeds"),
}


def _levels(snapshot: Snapshot) -> Iterable[tuple[str, str, float | None]]:
    trainer = snapshot.trainer or {}
    yield "lag", "messages to train", trainer.get("lag")
    yield "lag", "open requests", _total(snapshot.joiners, "open_requests")
    overall = trainer.get("overall") or {}
    for chart, metric in (("auc", "auc"), ("calibration", "calibration")):
        for task, value in (overall.get(metric) or {}).items():
            yield chart, task, value
    for index, shard in enumerate(snapshot.shards):
        yield "rows", f"shard {index}", None if shard is None else float(sum(shard["rows"].values()))
    yield "rows", "evicted", _total(snapshot.shards, "evictions")
    yield from _freshness(snapshot)
    yield from _interest(snapshot)


def _freshness(snapshot: Snapshot) -> Iterable[tuple[str, str, float | None]]:
    stages = newest_stages(snapshot)
    for percentile in ("p50", "p99"):
        yield "freshness", percentile, (stages.get("completed_to_served") or {}).get(percentile)


def newest_stages(snapshot: Snapshot) -> Report:
    """The freshness by stage of the replica that has served most samples, of those that take rounds."""
    taking = [r for r in snapshot.replicas if r and not r.get("paused")]
    found = [r.get("freshness_stages") or {} for r in taking]
    return max(found, key=lambda stages: int(stages.get("count", 0)), default={})


def _interest(snapshot: Snapshot) -> Iterable[tuple[str, str, float | None]]:
    simulation = snapshot.simulation
    if simulation is None:
        return
    for name, value in simulation["served_interest"].items():
        yield "interest", name, value
    yield "interest", "best possible", simulation.get("best_interest")


def recovery_points(snapshot: Snapshot) -> dict[int, str] | None:
    """The recovery points that can be returned to, by number, the newest first.

    None where there is no telling: the trainer is away, or of a kind that makes none.
    """
    points = (snapshot.trainer or {}).get("recovery_points")
    if points is None:
        return None
    return {p["number"]: f"{p['number']}: step {p['step']:,}, {p['rows']:,} rows" for p in reversed(points)}


def replica_rows(snapshot: Snapshot, frozen: list[bool]) -> list[dict[str, Any]]:
    """A row of the table of replicas for each."""
    return [_replica_row(i, report, frozen[i]) for i, report in enumerate(snapshot.replicas)]


def _replica_row(index: int, report: Report | None, frozen: bool) -> dict[str, Any]:  # noqa: FBT001 - a column
    name = f"replica {index}"
    if report is None:
        return {"name": name, "state": "away"}
    state = "ready" if report["ready"] else "not ready"
    if report.get("paused"):
        state = "frozen" if frozen else "paused"
    elif report.get("held"):
        state = "held"
    behind = report.get("seconds_since_sync")
    spooled = sum(box["spooled_bytes"] for box in (report.get("outboxes") or {}).values())
    return {
        "name": name,
        "state": state,
        "clocks": " · ".join(f"{clock:,}" for _, clock in report["clocks"]),
        "dense": report["dense_version"],
        "behind": "-" if behind is None else f"{behind:.1f} s",
        "rows": f"{sum(report['rows'].values()):,}",
        "feeds": f"{report['feeds']:,}",
        "spooled": "-" if not spooled else f"{spooled / 1024:,.0f} KB",
    }

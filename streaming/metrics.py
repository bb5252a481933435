"""The joiner's figures: Prometheus metrics and the report "joiner". The ops thread reads; nothing writes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streaming.clocks import wall_ms
from streaming.job import Job


class JoinerMetrics(Collector):
    """Metrics of a job at the moment of the scrape.

    Args:
        job: the job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def collect(self) -> Iterator[Metric]:
        """All metrics, as prometheus_client asks for them."""
        counts = self._job.counts
        records = CounterMetricFamily("joiner_records", "Records read, by kind.", labels=["kind"])
        for kind in ("feature_logs", "actions", "heartbeats"):
            records.add_metric([kind], getattr(counts, kind))
        yield records
        yield CounterMetricFamily("joiner_blocks", "Sample blocks emitted.", value=counts.blocks)
        rows = CounterMetricFamily("joiner_rows", "Training rows emitted, by kind.", labels=["kind"])
        for kind in ("close", "early", "late"):
            rows.add_metric([kind], counts.rows[kind])
        yield rows
        yield CounterMetricFamily("joiner_duplicates", "Records ignored as doubles.", value=counts.duplicates)
        yield CounterMetricFamily("joiner_ignored_actions", "Actions no task uses.", value=counts.ignored)
        yield CounterMetricFamily(
            "joiner_late_found", "Late actions whose request was in the late store.", value=counts.late
        )
        missed = sum(counts.dead_letters[reason] for reason in ("late_action", "unmatched_action"))
        yield CounterMetricFamily("joiner_late_missed", "Actions that no request took.", value=missed)
        yield CounterMetricFamily("joiner_dropped_rows", "Rows that sampling dropped.", value=counts.dropped)
        yield CounterMetricFamily("joiner_spilled", "Open requests put on disk.", value=counts.spilled)
        yield CounterMetricFamily(
            "joiner_parked_actions", "Actions put on disk until their feature log comes.", value=counts.parked
        )
        letters = CounterMetricFamily("joiner_dead_letters", "Dead letters, by reason.", labels=["reason"])
        for reason, number in sorted(counts.dead_letters.copy().items()):
            letters.add_metric([reason], number)
        yield letters
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        partitions = list(self._job.partitions.values())
        opened = sum(p.join.open_requests for p in partitions)
        pending = sum(len(p.join.waiting) for p in partitions)
        unacked = sum(p.unacked for p in partitions)
        yield GaugeMetricFamily("joiner_open_requests", "Requests whose window is open.", value=opened)
        yield GaugeMetricFamily("joiner_pending_actions", "Actions without a feature log yet.", value=pending)
        yield GaugeMetricFamily("joiner_unacked_messages", "Messages not acknowledged.", value=unacked)
        yield GaugeMetricFamily(
            "joiner_state_bytes", "Bytes of the late stores.", value=self._job.state_bytes
        )
        unread = GaugeMetricFamily(
            "joiner_unread_messages",
            "Messages in Kafka that were not read yet. The group's own lag is no measure: acknowledgements "
            "trail by the window.",
            labels=["topic", "partition"],
        )
        for (topic, number), count in sorted(self._job.unread.items()):
            unread.add_metric([topic, str(number)], count)
        yield unread
        lag = GaugeMetricFamily(
            "joiner_watermark_lag_seconds", "Wall clock less watermark, by partition.", labels=["partition"]
        )
        for partition in partitions:
            if partition.clock.value is not None:
                lag.add_metric([str(partition.number)], (wall_ms() - partition.clock.value) / 1000)
        yield lag


def report(job: Job, worker: int) -> dict[str, Any]:
    """The report "joiner": this worker's partitions, state and counts since it started."""
    partitions = list(job.partitions.values())
    counts = job.counts
    return {
        "worker": worker,
        "partitions": sorted(job.assigned or ()),
        "unacked": sum(p.unacked for p in partitions),
        "recalling": sorted(p.number for p in partitions if p.join.held),
        "store_behind": sorted(p.number for p in partitions if p.join.store_behind),
        "open_requests": sum(p.join.open_requests for p in partitions),
        "pending_actions": sum(len(p.join.waiting) for p in partitions),
        "feature_logs": counts.feature_logs,
        "actions": counts.actions,
        "blocks": counts.blocks,
        "rows": counts.rows.total(),
        "dead_letters": dict(counts.dead_letters.copy()),
        "duplicates": counts.duplicates,
        "late": counts.late,
        "parked": counts.parked,
        "dropped": counts.dropped,
        "unread": sum(job.unread.values()),
        "state_bytes": job.state_bytes,
        "watermarks": {str(p.number): p.clock.value for p in partitions if p.clock.value is not None},
    }

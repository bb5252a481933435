"""The Prometheus metrics of a shard process. Knows nothing of what moves them."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

PULLS: Final = Counter("headwater_ps_pulls_total", "Pulls answered")
ROWS_PULLED: Final = Counter("headwater_ps_rows_pulled_total", "Ids whose vectors were pulled")
PUSHES: Final = Counter("headwater_ps_pushes_total", "Pushes applied")
REPEATS: Final = Counter("headwater_ps_pushes_repeated_total", "Pushes acknowledged but applied before")
ROWS_PUSHED: Final = Counter("headwater_ps_rows_pushed_total", "Ids whose gradients were pushed and applied")
DELTAS: Final = Counter("headwater_ps_deltas_total", "Deltas answered", ["kind"])
ROWS_SENT: Final = Counter("headwater_ps_delta_rows_total", "Rows sent in deltas")
EVICTIONS: Final = Counter("headwater_ps_evictions_total", "Rows removed")
REFUSED: Final = Counter("headwater_ps_requests_refused_total", "Malformed requests refused")
BUSY: Final = Counter("headwater_ps_requests_busy_total", "Requests put off: too many were under way")
BYTES: Final = Counter("headwater_ps_bytes_total", "Bytes of columns", ["direction"])
SECONDS: Final = Histogram(
    "headwater_ps_request_seconds",
    "Time to answer a request",
    ["request"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
CHECKPOINT_SECONDS: Final = Histogram(
    "headwater_ps_checkpoint_seconds", "Time to write a checkpoint of all rows, or of changes", ["of"]
)
CLOCK: Final = Gauge("headwater_ps_clock", "The shard's clock: pushes and removals applied")
ROW_EVENTS: Final = Gauge(
    "headwater_ps_row_events",
    "Ids of a table since the start: not admitted, grown, demoted, expired, evicted; refused counts pushes",
    ["table", "kind"],
)
ROWS: Final = Gauge("headwater_ps_rows", "Rows of a table", ["table"])

"""The joiner: the window, sampling, the late store, the Parquet dump."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.config.values import Name, Port, Positive, PositiveSeconds, Seconds, Section


class SamplingConfig(Section, frozen=True, kw_only=True):
    """Which rows without any positive label are kept, after the join: all, or each with probability pi.

    "uniform": pi = rate. "score": pi = clip(rate * served score / its running mean, floor, 1), where the
    score is that of `score_task` (the first task if unset). Rows with a positive label are always kept.
    """

    mode: Literal["none", "uniform", "score"] = "none"
    rate: Annotated[float, Meta(gt=0, le=1)] = 1.0
    floor: Annotated[float, Meta(gt=0, le=1)] = 0.01
    score_task: Name | None = None


class DumpConfig(Section, frozen=True, kw_only=True):
    """The Parquet dump of the samples: a folder (under `run_dir` unless absolute), and how a file closes."""

    path: str = "samples"
    group: Name = "headwater-dump"
    file_rows: Positive = 200_000
    file_seconds: PositiveSeconds = 60.0
    ops_port: Port = 18190


class StreamingConfig(Section, frozen=True, kw_only=True):
    """The joiner. A request's attribution window is `window_seconds` of event time from its own.

    `emission`: a positive leaves when its action comes ("on_action") or with the rest at the close. An action
    is good until `late_horizon_seconds` after its request's time; later than the window it becomes a late
    positive (0: none are made). More than `open_limit` open requests in a partition leave their features on
    disk. `late_wait_seconds` is how long late actions may wait for a late store that is being rebuilt.
    """

    app_id: Name = "headwater-joiner"
    workers: Positive = 1
    window_seconds: PositiveSeconds = 600.0
    disorder_seconds: Seconds = 1.0
    idle_seconds: PositiveSeconds = 2.0
    commit_seconds: PositiveSeconds = 1.0
    ops_port: Port = 18100
    emission: Literal["on_close", "on_action"] = "on_close"
    late_horizon_seconds: Seconds = 3600.0
    late_wait_seconds: PositiveSeconds = 300.0
    open_limit: Positive = 100_000
    sampling: SamplingConfig = SamplingConfig()
    dump: DumpConfig | None = None

"""The trainer, its guard, and what it reports."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta

from schema.config.values import Count, Name, Port, Positive, PositiveFloat, PositiveSeconds, Section


class PeriodConfig(Section, frozen=True, kw_only=True):
    """A span of event time, `start` included and `end` not, as ISO 8601 with an offset."""

    start: Annotated[datetime, Meta(tz=True)]
    end: Annotated[datetime, Meta(tz=True)]


class GuardConfig(Section, frozen=True, kw_only=True):
    """When the trainer stops publishing: a window of `window_rows` rows out of bounds for some task.

    A task with fewer than `least_positives` in the window is not judged. `drift_delta` is ADWIN's confidence.
    """

    window_rows: Positive = 20_000
    least_positives: Positive = 200
    calibration_min: PositiveFloat = 0.5
    calibration_max: PositiveFloat = 2.0
    entropy_max: PositiveFloat = 1.2
    drift_delta: Annotated[float, Meta(gt=0, lt=1)] = 0.002


class TrainerConfig(Section, frozen=True, kw_only=True):
    """The trainer. A batch closes at `batch_rows` rows, or where the samples end after `batch_wait_seconds`.

    Mode "online" trains from the samples topic, for good; "batch" from the Parquet files in `history`, to
    their end: a folder, under `run_dir` unless absolute, by default that of the dump. A recovery point of
    trainer and shards is made every `recovery_seconds`; `recovery_points` are kept.

    With a `propensity_clip` the ranker's loss counts rows by one over the odds with which they were shown, at
    most the clip, over the mean of that in the batch's rows whose odds are known; all others count as 1.
    Without one all rows count alike.

    Metrics are kept overall, by windows of `evaluation_window_seconds` of event time (aligned to the feature
    configuration's time zone), and over `report_period` where one is given. `baseline` adds the smoothed
    log-odds baseline, whose counts grow with the number of users and items. `device` computes the dense
    network. `tensorboard` also logs the metrics for TensorBoard, under the run_dir.
    """

    trainer_id: Name = "trainer-0"
    mode: Literal["online", "batch"] = "online"
    history: str | None = None
    batch_rows: Positive = 512
    batch_wait_seconds: PositiveSeconds = 0.2
    learning_rate: PositiveFloat = 0.002
    propensity_clip: Annotated[float, Meta(gt=1)] | None = None
    recovery_seconds: PositiveSeconds = 30.0
    recovery_points: Positive = 3
    evaluation_window_seconds: PositiveSeconds = 86400.0
    report_period: PeriodConfig | None = None
    baseline: bool = False
    guard: GuardConfig | None = None
    traces_per_step: Annotated[int, Meta(ge=0, le=1000)] = 16
    device: Literal["cpu", "cuda"] = "cpu"
    tensorboard: bool = False
    torch_threads: Positive = 1
    seed: Count = 0
    ops_port: Port = 18200

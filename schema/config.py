"""The typed configuration of every role. YAML composes these; `config_file` reads and checks it.

Every section is frozen, rejects unknown keys, and carries its own bounds. Times say their unit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Seconds = Annotated[float, Meta(ge=0)]
PositiveSeconds = Annotated[float, Meta(gt=0)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+$", max_length=200)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every part of the configuration."""


class TopicConfig(Section, frozen=True, kw_only=True):
    """One Kafka topic."""

    name: Name
    partitions: Positive = 4
    compact: bool = False


class TopicsConfig(Section, frozen=True, kw_only=True):
    """The topics. `feature_logs`, `user_actions` and `training_samples` need equal partition counts."""

    feature_logs: TopicConfig = TopicConfig(name="feature-logs")
    user_actions: TopicConfig = TopicConfig(name="user-actions")
    training_samples: TopicConfig = TopicConfig(name="training-samples")
    dead_letters: TopicConfig = TopicConfig(name="dead-letters", partitions=1)
    catalogue: TopicConfig = TopicConfig(name="catalogue", partitions=1, compact=True)


class KafkaConfig(Section, frozen=True, kw_only=True):
    """The broker. With `bootstrap` unset the project starts one of its own on `local_port`."""

    bootstrap: str | None = None
    local_port: Port = 19092
    heap_mb: Annotated[int, Meta(ge=128)] = 512
    replication: Positive = 1
    session_timeout_seconds: Annotated[float, Meta(ge=6)] = 6.0
    topics: TopicsConfig = TopicsConfig()

    @property
    def servers(self) -> str:
        """The bootstrap servers to connect to, as "host:port[,host:port…]"."""
        return self.bootstrap or f"127.0.0.1:{self.local_port}"


class SlotConfig(Section, frozen=True, kw_only=True):
    """One categorical feature. See `schema.features` for what `source` may name.

    `ids_of` names another slot whose ids (and so whose embedding rows) these values share, as a history of
    items shares the item's. Several values of a row are pooled; "attention" weighs a history by its likeness
    to the item that is scored, which `ids_of` has to name.
    """

    name: Name
    slot: Annotated[int, Meta(ge=1, le=65535)]
    source: Annotated[str, Meta(pattern=r"^(user|item|context|history)\.[A-Za-z0-9_]+$")]
    pool: Literal["mean", "sum", "attention"] = "mean"
    ids_of: str | None = None
    table: Name = "embedding"


class DenseConfig(Section, frozen=True, kw_only=True):
    """One numeric feature of a user or an item; a missing value is 0 (after the transform)."""

    name: Name
    source: Annotated[str, Meta(pattern=r"^(user|item)\.[A-Za-z0-9_]+$")]
    transform: Literal["none", "log1p"] = "none"


class HistoryConfig(Section, frozen=True, kw_only=True):
    """A list of the items a user last gave one of `actions`, newest last. An exposure is action "exposed"."""

    name: Name
    actions: tuple[Name, ...]
    length: Annotated[int, Meta(ge=1, le=1000)] = 50


class FeaturesConfig(Section, frozen=True, kw_only=True):
    """Which features exist, and how a time becomes an hour (`timezone_hours` east of UTC)."""

    slots: Annotated[tuple[SlotConfig, ...], Meta(min_length=1)]
    dense: tuple[DenseConfig, ...] = ()
    histories: tuple[HistoryConfig, ...] = ()
    timezone_hours: Annotated[float, Meta(ge=-12, le=14)] = 0.0


class TaskConfig(Section, frozen=True, kw_only=True):
    """One label: positive if any of `actions` was seen in the window. `weight` is its part in the score.

    `prior`: the rate of positives that an untrained model predicts.
    """

    name: Name
    actions: Annotated[tuple[Name, ...], Meta(min_length=1)]
    weight: float = 1.0
    prior: Annotated[float, Meta(gt=0, lt=1)] = 0.5


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


class OptimizerConfig(Section, frozen=True, kw_only=True):
    """How a row learns; `parameter_server/kernels/optimizers.py` has the formulas.

    `initial_accumulator` is where Adagrad's, row-wise Adagrad's and FTRL's sums of squares start. A gradient
    is first scaled down to `clip_norm`, if given, then gets `weight_decay` times the row.
    """

    kind: Literal["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"] = "rowwise_adagrad"
    learning_rate: PositiveFloat = 0.05
    initial_accumulator: Annotated[float, Meta(ge=0)] = 0.025
    epsilon: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    clip_norm: PositiveFloat | None = None
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.999
    l1: Annotated[float, Meta(ge=0)] = 0.0
    l2: Annotated[float, Meta(ge=0)] = 0.0
    ftrl_beta: Annotated[float, Meta(ge=0)] = 1.0


class AdmissionConfig(Section, frozen=True, kw_only=True):
    """When an id gets a row of its own: at once, at its `threshold`-th push, or at each with `probability`.

    Until then it has its first vector and its gradients are dropped. Counts of at most `candidates` ids are
    kept, and halved every `ageing_seconds` of event time.
    """

    kind: Literal["all", "count", "probability"] = "all"
    threshold: Annotated[int, Meta(ge=1, le=255)] = 2
    probability: Annotated[float, Meta(gt=0, le=1)] = 0.5
    ageing_seconds: PositiveSeconds = 86400.0
    candidates: Positive = 1_000_000


class SlotRowsConfig(Section, frozen=True, kw_only=True):
    """What the rows of one slot have of their own; unset is as the table has it."""

    optimizer: OptimizerConfig | None = None
    ttl_seconds: PositiveSeconds | None = None


DEFAULT_WIDTHS = (4, 8, 16, 32)
"""Of a table whose rows grow."""
SlotNumber = Annotated[int, Meta(ge=0, le=65535)]


class TableConfig(Section, frozen=True, kw_only=True):
    """One embedding table. An unseen id starts uniform in ±`init_scale`, a function of (`seed`, id) alone.

    A row without a push for `ttl_seconds` of event time is evicted; so are the least recently used while the
    table is above `memory_mb`, until it is a tenth below. `slots` overrides by slot (an id's upper 16 bits).

    With `grow_at` a row starts with the first of `widths`, ascending and the last one `dim`, and takes the
    next at its grow_at[i]-th push; unset, they are 4, 8, 16 and 32 as far as they are below `dim`, and `dim`.
    What a row lacks reads as 0; the ranker projects each slot's vectors. Above `memory_mb` the least used
    shrink first.
    """

    name: Name
    dim: Annotated[int, Meta(ge=1, le=1024)] = 16
    optimizer: OptimizerConfig = OptimizerConfig()
    init_scale: Annotated[float, Meta(ge=0)] = 0.01
    seed: Count = 0
    capacity: Annotated[int, Meta(ge=16)] = 65536
    admission: AdmissionConfig = AdmissionConfig()
    ttl_seconds: PositiveSeconds | None = None
    memory_mb: PositiveFloat | None = None
    widths: tuple[Positive, ...] = ()
    grow_at: tuple[Positive, ...] = ()
    slots: dict[SlotNumber, SlotRowsConfig] = {}

    @property
    def classes(self) -> tuple[int, ...]:
        """The widths that a row can have, ascending; the last one is `dim`."""
        if self.grow_at and not self.widths:
            return *(width for width in DEFAULT_WIDTHS if width < self.dim), self.dim
        return self.widths or (self.dim,)


class ShardConfig(Section, frozen=True, kw_only=True):
    """Where one shard listens: Flight on `port`, health and metrics on `ops_port`."""

    host: str = "127.0.0.1"
    port: Port
    ops_port: Port


class SecurityConfig(Section, frozen=True, kw_only=True):
    """Files (PEM) of mutual TLS between shards and clients, all three or none, and of a token they share."""

    token_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    ca_file: str | None = None


ReplicaRows = Literal["fp32", "fp16", "int8"]
"""How rows travel to replicas and lie in them: as they are, halved, or in bytes with a scale a row."""


class ParameterServerConfig(Section, frozen=True, kw_only=True):
    """The shards, in order: a key's virtual bucket decides which one holds it.

    A shard checkpoints every `checkpoint_seconds` and keeps the last `checkpoints_kept`. Beyond
    `most_requests` at a time it answers that it is busy, and clients try again.
    """

    shards: Annotated[tuple[ShardConfig, ...], Meta(min_length=1, max_length=1024)]
    tables: Annotated[tuple[TableConfig, ...], Meta(min_length=1)] = (TableConfig(name="embedding"),)
    tombstones_kept: Positive = 1_000_000
    chunk_rows: Positive = 65536
    replica_rows: ReplicaRows = "fp32"
    checkpoint_seconds: PositiveSeconds = 10.0
    checkpoints_kept: Positive = 2
    max_message_mb: Positive = 64
    most_requests: Positive = 64
    request_seconds: PositiveSeconds = 10.0
    retry_seconds: PositiveSeconds = 120.0
    security: SecurityConfig = SecurityConfig()


class PositionConfig(Section, frozen=True, kw_only=True):
    """The shallow tower of position and surface: what an impression gains by where it was shown.

    Positions from `positions` on, and surfaces from `surfaces` on, each share one last row. In training a
    row's position is taken away with probability `dropout`; serving knows none.
    """

    positions: Positive = 32
    surfaces: Positive = 16
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.1


class ModelConfig(Section, frozen=True, kw_only=True):
    """The MMoE ranker: sizes of its expert, gate-to-head and head layers.

    `engaged` names the task that the others are conditional on: they train on engaged rows only and serve the
    product. Unset, all heads are independent. `gate_dropout`: how likely a gate loses an expert in training.
    """

    experts: Positive = 4
    expert_hidden: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (64, 32)
    head_hidden: tuple[Positive, ...] = (16,)
    gate_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    position: PositionConfig | None = None
    engaged: Name | None = None


class RetrievalConfig(Section, frozen=True, kw_only=True):
    """Deep Retrieval: candidates learned in the stream. Without it they are the popular and recent items.

    Structure: `depth` layers of `nodes` nodes, `paths` paths an item, `penalty` (alpha) on long ones. A user
    and an item belong together where the task `positives` (the first one if unset) has label 1. An item's
    vector and bias are the sum of the rows of its feature ids in `table`, which is retrieval's own: a vector
    is one float narrower than a row. A user's vector pools those of the items of `history`; `user_id` adds
    one of the user's own. Beside a batch's positives, the softmax is over `negatives` items drawn evenly.
    `beam` paths are kept a layer, and at most `rerank` of their items reranked.
    `scored_paths` an item are remembered, of the `score_beam` paths of each of its users: few would leave the
    penalty no room to spread items. `score_decay` is what a score is worth one pair later; an M-step of
    `sweeps` passes follows every `placement_rows` pairs.
    """

    history: Name
    positives: Name | None = None
    table: Name = "retrieval"
    negatives: Positive = 64
    nodes: Annotated[int, Meta(ge=2, le=65536)] = 100
    depth: Annotated[int, Meta(ge=1, le=6)] = 2
    paths: Annotated[int, Meta(ge=1, le=16)] = 3
    beam: Annotated[int, Meta(ge=1, le=10_000)] = 25
    rerank: Positive = 1000
    hidden: Positive = 64
    pool: Literal["mean", "sqrtn", "attention"] = "mean"
    user_id: bool = False
    penalty: Annotated[float, Meta(ge=0)] = 1e-4
    scored_paths: Annotated[int, Meta(ge=1, le=1000)] = 60
    score_beam: Annotated[int, Meta(ge=1, le=10_000)] = 100
    score_decay: Annotated[float, Meta(gt=0, le=1)] = 0.999
    sweeps: Positive = 3
    placement_rows: Positive = 100_000
    learning_rate: PositiveFloat = 0.002
    seed: Count = 0


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


class SyncConfig(Section, frozen=True, kw_only=True):
    """How often a replica pulls rows, and the trainer publishes and a replica pulls dense parameters."""

    sparse_seconds: Annotated[float, Meta(ge=1)] = 60.0
    dense_seconds: Annotated[float, Meta(ge=1)] = 60.0


class ReplicaConfig(Section, frozen=True, kw_only=True):
    """Where one serving replica listens.

    With `freeze_after_seconds` it stops taking rounds that long after its first trained model: the control
    arm of a comparison, which `simulation` gives half of its users.
    """

    host: str = "127.0.0.1"
    port: Port
    freeze_after_seconds: PositiveSeconds | None = None


class ServingConfig(Section, frozen=True, kw_only=True):
    """The replicas, and how a feed is made: `candidates` items ranked to `feed_size`.

    Of the candidates `recent_share` are the newest items. The others are the most popular ones, or, where
    retrieval has learned, `popular_share` of all the most popular and the rest retrieved.
    Of all positions, `explore_share` show an item at random. With an `api_key`, /v1 requests need it in the
    header X-API-Key; at most `max_requests` are worked on at once, and further ones are told to come again.
    Per topic, `spool_mb` may wait on disk while Kafka is away.
    """

    replicas: Annotated[tuple[ReplicaConfig, ...], Meta(min_length=1)]
    candidates: Positive = 100
    recent_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    popular_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    feed_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    popularity_half_life_seconds: PositiveSeconds = 3600.0
    torch_threads: Positive = 1
    explore_share: Annotated[float, Meta(ge=0, le=1)] = 0.015
    max_requests: Positive = 64
    spool_mb: Positive = 256
    api_key: Annotated[str, Meta(min_length=8, max_length=200)] | None = None


class SimulationConfig(Section, frozen=True, kw_only=True):
    """Closed-loop simulated users: how many, of which tastes, how fast they scroll, and how they change.

    A taste moves towards a new aim within about `drift_seconds`, and jumps every `jump_seconds` on average;
    an item lives for `item_life_seconds` on average. Commands and reports are on `ops_port`.
    """

    users: Positive = 500
    items: Positive = 2000
    topics: Positive = 16
    surfaces: Positive = 2
    requests_per_second: PositiveFloat = 40.0
    action_delay_seconds: PositiveFloat = 1.0
    drift_seconds: Annotated[float, Meta(ge=1)] = 600.0
    jump_seconds: Annotated[float, Meta(ge=1)] = 1200.0
    item_life_seconds: Annotated[float, Meta(ge=1)] = 1800.0
    seed: Count = 0
    ops_port: Port = 18300


class ConsoleConfig(Section, frozen=True, kw_only=True):
    """Where the console's pages are, and on which `hosts` it finds roles that do not say so elsewhere.

    Of "trainer", "joiner" and "simulation" that is `ops_host`, of "replica" the replicas' own, unless named.
    """

    host: str = "127.0.0.1"
    port: Port = 18400
    hosts: dict[Literal["trainer", "joiner", "simulation", "replica"], str] = {}


class LaunchConfig(Section, frozen=True, kw_only=True):
    """How the supervisor treats the processes that it starts."""

    ready_seconds: PositiveSeconds = 90.0
    stop_seconds: PositiveSeconds = 20.0
    backoff_seconds: PositiveSeconds = 0.5
    backoff_max_seconds: PositiveSeconds = 15.0


class Config(Section, frozen=True, kw_only=True):
    """A whole deployment. Roles write under `run_dir`; their health and metrics listen on `ops_host`."""

    run_dir: str = "run"
    ops_host: str = "127.0.0.1"
    kafka: KafkaConfig = KafkaConfig()
    features: FeaturesConfig
    tasks: Annotated[tuple[TaskConfig, ...], Meta(min_length=1)]
    streaming: StreamingConfig = StreamingConfig()
    parameter_server: ParameterServerConfig
    model: ModelConfig = ModelConfig()
    retrieval: RetrievalConfig | None = None
    trainer: TrainerConfig = TrainerConfig()
    sync: SyncConfig = SyncConfig()
    serving: ServingConfig
    simulation: SimulationConfig = SimulationConfig()
    console: ConsoleConfig = ConsoleConfig()
    launch: LaunchConfig = LaunchConfig()

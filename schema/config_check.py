"""Checks that hold between values of a configuration, which no single type can state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from schema.config import Config, ServingConfig, TableConfig
from schema.errors import ConfigError

PATHS_LIMIT = 1 << 26
"""Retrieval's inverted index has an offset for every path that could be."""
_LEAST_DIM = 2
SEED_LIMIT = 1 << 64
"""Beyond what a bound on a field can say."""
CONTEXT_SOURCES = ("context.surface", "context.hour", "context.weekday")


def check(config: Config) -> None:
    """Raises ConfigError where two values of `config` contradict each other."""
    _check_topics(config)
    _check_features(config)
    _check_addresses(config)
    _check_retrieval(config)
    _unique("tasks", (t.name for t in config.tasks))
    if config.model.engaged is not None:
        _one_of("model.engaged", config.model.engaged, [t.name for t in config.tasks])
    _unique("parameter_server.tables", (t.name for t in config.parameter_server.tables))
    for table in config.parameter_server.tables:
        _check_table(table)
    _check_streaming(config)
    period = config.trainer.report_period
    if period is not None and period.end <= period.start:
        raise ConfigError(
            f"trainer.report_period.end: {period.end.isoformat()}; "
            f"legal is a time after the start, {period.start.isoformat()}"
        )
    if all(replica.freeze_after_seconds is not None for replica in config.serving.replicas):
        raise ConfigError(
            "serving.replicas.0.freeze_after_seconds: all replicas have one; legal is at least one without, "
            "which goes on learning"
        )
    if config.serving.candidates < config.serving.feed_size:
        raise ConfigError(
            f"serving.candidates: {config.serving.candidates}; "
            f"legal is at least serving.feed_size, {config.serving.feed_size}"
        )


def _check_shares(serving: ServingConfig) -> None:
    if serving.recent_share + serving.popular_share > 1:
        raise ConfigError(
            f"serving.popular_share: {serving.popular_share:g}; legal is at most what serving.recent_share "
            f"leaves, {1 - serving.recent_share:g}"
        )


def _check_table(table: TableConfig) -> None:
    where = f"parameter_server.tables.{table.name}"
    if table.seed >= SEED_LIMIT:
        raise ConfigError(f"{where}.seed: {table.seed}; legal is 0 to 2^64-1")
    if list(table.classes) != sorted(set(table.classes)) or table.classes[-1] != table.dim:
        raise ConfigError(
            f"{where}.widths: {list(table.classes)}; legal is ascending, the last one dim, {table.dim}"
        )
    steps = list(table.grow_at)
    if steps != sorted(set(steps)) or len(steps) != len(table.classes) - 1:
        raise ConfigError(
            f"{where}.grow_at: {steps}; legal is {len(table.classes) - 1} numbers of pushes, ascending: "
            "one for each width but the first"
        )


def _check_topics(config: Config) -> None:
    topics = config.kafka.topics
    _unique("kafka.topics", (getattr(topics, f).name for f in topics.__struct_fields__))
    wanted = topics.feature_logs.partitions
    for field in ("user_actions", "training_samples"):
        count = getattr(topics, field).partitions
        if count != wanted:
            raise ConfigError(
                f"kafka.topics.{field}.partitions: {count}; legal is {wanted}, as feature_logs has: "
                "the join needs both topics partitioned alike"
            )


def _check_streaming(config: Config) -> None:
    streaming = config.streaming
    if 0 < streaming.late_horizon_seconds < streaming.window_seconds:
        raise ConfigError(
            f"streaming.late_horizon_seconds: {streaming.late_horizon_seconds:g}; legal is 0, or at least "
            f"streaming.window_seconds, {streaming.window_seconds:g}"
        )
    if streaming.sampling.score_task is not None:
        _one_of(
            "streaming.sampling.score_task", streaming.sampling.score_task, [t.name for t in config.tasks]
        )


def _check_features(config: Config) -> None:
    slots = config.features.slots
    _unique("features.slots", (s.name for s in slots))
    _unique("features.slots (the slot number)", (s.slot for s in slots))
    _unique("features.dense", (d.name for d in config.features.dense))
    tables = [t.name for t in config.parameter_server.tables]
    histories = [h.name for h in config.features.histories]
    names = [s.name for s in slots]
    for slot in slots:
        where = f"features.slots.{slot.name}"
        _one_of(f"{where}.table", slot.table, tables)
        if slot.ids_of is not None:
            _one_of(f"{where}.ids_of", slot.ids_of, names)
        if slot.source.startswith("history."):
            _one_of(f"{where}.source", slot.source, [f"history.{h}" for h in histories])
        if slot.pool == "attention":
            _one_of(f"{where}.source", slot.source, [f"history.{h}" for h in histories])
            _one_of(
                f"{where}.ids_of", slot.ids_of or "", [s.name for s in slots if s.source.startswith("item.")]
            )
        if slot.source.startswith("context."):
            _one_of(f"{where}.source", slot.source, CONTEXT_SOURCES)
    dims = {t.name: t.dim for t in config.parameter_server.tables}
    if len({dims[s.table] for s in slots}) > 1:
        raise ConfigError(
            f"features.slots: tables of dims {sorted(set(dims.values()))}; legal is one dim for all"
        )


def _check_retrieval(config: Config) -> None:
    retrieval = config.retrieval
    if retrieval is None:
        return
    _check_shares(config.serving)
    sources = {s.source for s in config.features.slots}
    histories = [h.name for h in config.features.histories if f"history.{h.name}" in sources]
    _one_of("retrieval.history", retrieval.history, histories)
    if retrieval.positives is not None:
        _one_of("retrieval.positives", retrieval.positives, [t.name for t in config.tasks])
    if retrieval.user_id and "user.id" not in sources:
        raise ConfigError("retrieval.user_id: true; legal is false, for no slot's source is user.id")
    taken = {s.table for s in config.features.slots}
    free = {t.name: t for t in config.parameter_server.tables if t.name not in taken}
    _one_of("retrieval.table", retrieval.table, free)
    _check_retrieval_table(free[retrieval.table])
    total = retrieval.nodes**retrieval.depth
    if not retrieval.paths <= total <= PATHS_LIMIT:
        raise ConfigError(
            f"retrieval.nodes: {retrieval.nodes} in {retrieval.depth} layers are {total} paths; "
            f"legal is retrieval.paths, {retrieval.paths}, to {PATHS_LIMIT}"
        )


def _check_retrieval_table(table: TableConfig) -> None:
    if table.dim < _LEAST_DIM:
        raise ConfigError(
            f"retrieval.table: {table.name!r} has rows of 1 float; legal is at least {_LEAST_DIM}: "
            "a vector and a bias"
        )
    if table.grow_at or table.classes != (table.dim,):
        raise ConfigError(
            f"retrieval.table: the rows of {table.name!r} grow, in widths {table.classes}; legal is a table "
            "of one width, whose last float is the bias"
        )


def _check_addresses(config: Config) -> None:
    server, serving = config.parameter_server, config.serving
    addresses = [(s.host, s.port) for s in server.shards] + [(s.host, s.ops_port) for s in server.shards]
    addresses += [(r.host, r.port) for r in serving.replicas]
    workers = range(config.streaming.workers)
    addresses += [(config.ops_host, config.streaming.ops_port + i) for i in workers]
    addresses += [(config.ops_host, config.trainer.ops_port), (config.ops_host, config.simulation.ops_port)]
    addresses.append((config.console.host, config.console.port))
    if config.streaming.dump is not None:
        addresses.append((config.ops_host, config.streaming.dump.ops_port))
    if config.kafka.bootstrap is None:
        addresses.append(("127.0.0.1", config.kafka.local_port))
    _unique("addresses (host and port)", addresses)


def _unique(where: str, values: Iterable[object]) -> None:
    twice = [v for v, n in Counter(values).items() if n > 1]
    if twice:
        raise ConfigError(f"{where}: {twice[0]!r} is given twice; legal is once each")


def _one_of(where: str, value: str, allowed: Iterable[str]) -> None:
    allowed = list(allowed)
    if value not in allowed:
        raise ConfigError(
            f"{where}: {value!r}; legal is one of: {', '.join(allowed) or '(none are configured)'}"
        )

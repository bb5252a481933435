"""The processes of a deployment, from its configuration. Knows the roles' command lines and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from runtime.child import ProcessSpec
from runtime.probes import http_ready, kafka_ready
from schema.config import Config
from schema.errors import ConfigError

_KAFKA: Final = 0
_TOPICS: Final = 1
_SHARDS: Final = 2
_REST: Final = 3


def process_specs(config: Config, config_file: Path) -> list[ProcessSpec]:
    """Every process of `config`, each told to read `config_file`: kafka, topics, shards, then the rest.

    Kafka is among them only if `kafka.bootstrap` names no broker.
    """
    file = str(config_file)
    own = [] if config.kafka.bootstrap else [_kafka(config)]
    topics = ProcessSpec("topics", _module("runtime.topics", file), _TOPICS, once=True)
    rest = [
        *_joiners(config, file),
        *_dump(config, file),
        *_models(config, file),
        _console(config, file),
    ]
    return [*own, topics, *_shards(config, file), *rest]


def select(specs: Sequence[ProcessSpec], only: Iterable[str]) -> list[ProcessSpec]:
    """Those of `specs` that `only` names, by kind ("shard") or by name ("shard-0"); all if it is empty.

    Raises:
        ConfigError: a name is neither; the text lists the legal ones.
    """
    wanted = set(only)
    legal = {s.name for s in specs} | {_kind(s) for s in specs}
    unknown = sorted(wanted - legal)
    if unknown:
        raise ConfigError(f"only: {', '.join(unknown)}; legal are {', '.join(sorted(legal))}")
    return [s for s in specs if not wanted or s.name in wanted or _kind(s) in wanted]


def _kind(spec: ProcessSpec) -> str:
    return spec.name.partition("-")[0]


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _kafka(config: Config) -> ProcessSpec:
    kafka = config.kafka
    command = _module(
        "runtime.kafka_cli",
        "run",
        "--data",
        str(Path(config.run_dir) / "kafka"),
        "--port",
        str(kafka.local_port),
        "--heap-mb",
        str(kafka.heap_mb),
    )
    return ProcessSpec("kafka", command, _KAFKA, kafka_ready(kafka))


def _shards(config: Config, file: str) -> list[ProcessSpec]:
    return [
        ProcessSpec(
            f"shard-{i}",
            _module("parameter_server", file, "--shard", str(i)),
            _SHARDS,
            http_ready(shard.host, shard.ops_port),
        )
        for i, shard in enumerate(config.parameter_server.shards)
    ]


def _joiners(config: Config, file: str) -> list[ProcessSpec]:
    return [
        ProcessSpec(
            f"joiner-{i}",
            _module("streaming", file, "--worker", str(i)),
            _REST,
            http_ready(config.ops_host, config.streaming.ops_port + i),
        )
        for i in range(config.streaming.workers)
    ]


def _dump(config: Config, file: str) -> list[ProcessSpec]:
    dump = config.streaming.dump
    if dump is None:
        return []
    return [
        ProcessSpec(
            "dump", _module("streaming.dump", file), _REST, http_ready(config.ops_host, dump.ops_port)
        )
    ]


def _models(config: Config, file: str) -> list[ProcessSpec]:
    trainer = ProcessSpec(
        "trainer", _module("trainer", file), _REST, http_ready(config.ops_host, config.trainer.ops_port)
    )
    replicas = [
        ProcessSpec(
            f"replica-{i}",
            _module("serving", file, "--replica", str(i)),
            _REST,
            http_ready(replica.host, replica.port),
        )
        for i, replica in enumerate(config.serving.replicas)
    ]
    return [trainer, *replicas]


def _console(config: Config, file: str) -> ProcessSpec:
    place = config.console
    return ProcessSpec("console", _module("console", file), _REST, http_ready(place.host, place.port))

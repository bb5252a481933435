"""The real trainer process on Apache Kafka and real shards, killed (-9) while it trains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import TopicPartition

from models.dense import RANKER, load_payload
from models.mmoe import MMoE
from parameter_server.client import ParameterClient
from runtime.kafka import consumer, end_offsets, producer
from runtime.ports import free_port
from runtime.processes import die_with_parent
from schema.codec import DEAD_LETTERS, TRAINING_SAMPLES
from schema.config import Config, KafkaConfig, ParameterServerConfig, ShardConfig, TrainerConfig
from schema.config_file import dump_config
from schema.records import SampleBlock
from tests.polling import wait_until
from tests.trainer.make import DIM, TASKS, JoinerModel, config
from trainer.dedup import DuplicateFilter

BUSY_SECONDS = 60


class Deployment:
    """Two shards and a trainer as processes, on the broker of the tests."""

    def __init__(self, folder: Path, kafka: KafkaConfig) -> None:
        base = config(folder / "run")
        shards = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(2))
        self.config: Config = msgspec.structs.replace(
            base,
            kafka=kafka,
            parameter_server=ParameterServerConfig(shards=shards, tables=base.parameter_server.tables),
            trainer=TrainerConfig(
                batch_rows=8, batch_wait_seconds=0.05, checkpoint_seconds=30, ops_port=free_port()
            ),
        )
        self._path = folder / "config.yaml"
        dump_config(self.config, self._path)
        self._log = (folder / "log").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.shards = [self._spawn("parameter_server", "--shard", str(i)) for i in range(2)]
        self._producer = producer(kafka)

    def _spawn(self, module: str, *more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(self._path), *more],
            stderr=self._log,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - see there
        )
        self._processes.append(process)
        return process

    def trainer(self) -> subprocess.Popen[bytes]:
        return self._spawn("trainer")

    def report(self) -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{self.config.trainer.ops_port}/report/trainer"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return json.load(reply)
        except (urllib.error.URLError, ConnectionError):
            return None

    def trained(self, rows: int) -> dict[str, Any] | None:
        report = self.report()
        return report if report and report["samples_trained"] >= rows else None

    def drained(self) -> dict[str, Any] | None:
        report = self.report()
        return report if report and report["lag"] == 0 else None

    def send(self, partition: int, payload: bytes) -> None:
        topic = self.config.kafka.topics.training_samples.name
        self._producer.send(topic, payload, partition=partition)

    def send_all(self, blocks: Sequence[SampleBlock]) -> None:
        for block in blocks:
            self.send(block.source.partition, TRAINING_SAMPLES.encode([block]))

    def close(self) -> None:
        self._producer.close(10)
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


@pytest.fixture
def deployment(tmp_path: Path, topics: KafkaConfig) -> Iterator[Deployment]:
    made = Deployment(tmp_path, topics)
    yield made
    made.close()


@pytest.mark.kafka
def test_every_row_is_trained_once_though_the_trainer_is_killed_twice(deployment: Deployment):
    partitions = [JoinerModel(p, 60, p).emit(crashes=1) for p in range(4)]
    blocks = [b for several in zip_longest(*partitions) for b in several if b is not None]
    trainer = deployment.trainer()
    third = len(blocks) // 3
    for part, wanted in ((slice(third), 1), (slice(third, 2 * third), 200)):
        deployment.send_all(blocks[part])
        wait_until(partial(deployment.trained, wanted), BUSY_SECONDS)
        trainer.kill()
        trainer.wait()
        trainer = deployment.trainer()
    deployment.send_all(blocks[2 * third :])
    deployment.send(0, b"nonsense")
    report = wait_until(lambda: (r := deployment.drained()) and r["dead_letters"] == 1 and r, BUSY_SECONDS)
    assert report["samples_trained"] == report["overall"]["rows"] == _rows_left(blocks)
    assert report["lost"] == []
    assert report["refused_rows"] == 0
    assert report["restarts_recovered"] > 0
    _applied_once(deployment, report["step"])
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(20) == 0
    _published(deployment, report)
    _committed(deployment.config)
    assert _dead_letters(deployment.config) == 1


def _rows_left(blocks: Sequence[SampleBlock]) -> int:
    """The rows that one duplicate filter, never interrupted, lets pass."""
    seen = DuplicateFilter()
    seen.begin()
    return sum(int(seen.fresh(block).any(axis=1).sum()) for block in blocks)


def _applied_once(deployment: Deployment, step: int) -> None:
    with ParameterClient(deployment.config.parameter_server) as client:
        for shard in range(2):
            state = client.shard_state(shard)
            assert state.steps == {"trainer-0": step}
            assert state.clock == step


def _published(deployment: Deployment, report: dict[str, Any]) -> None:
    settings = deployment.config
    with ParameterClient(settings.parameter_server) as client:
        found = client.get_dense(RANKER)
    assert found is not None
    assert found.version == found.step == report["step"]
    load_payload(MMoE(settings.model, settings.features, len(TASKS), DIM), found.payload)


def _committed(settings: Config) -> None:
    """Who watches the lag of the group finds none."""
    reader = consumer(settings.kafka, group="trainer-0")
    topic = settings.kafka.topics.training_samples.name
    for partition, end in end_offsets(reader, topic).items():
        assert reader.committed(TopicPartition(topic, partition)) == end
    reader.close()


def _dead_letters(settings: Config) -> int:
    reader = consumer(settings.kafka, settings.kafka.topics.dead_letters.name, group="test")
    found: list[Any] = []

    def poll() -> bool:
        for messages in reader.poll(timeout_ms=200).values():
            found.extend(letter for m in messages for letter in DEAD_LETTERS.decode(m.value))
        return bool(found)

    wait_until(poll, 20)
    reader.close()
    assert all(letter.reason == "version" for letter in found)
    return len({(letter.partition, letter.offset) for letter in found})


@pytest.mark.kafka
def test_a_killed_shard_is_reported_and_training_goes_on(deployment: Deployment):
    blocks = JoinerModel(7, 80, 1).emit(crashes=0)
    deployment.trainer()
    deployment.send_all(blocks[:-5])
    wait_until(lambda: (r := deployment.drained()) and r["samples_trained"] and r, BUSY_SECONDS)
    deployment.shards[0].kill()
    deployment.shards[0].wait()
    deployment._spawn("parameter_server", "--shard", "0")
    deployment.send_all(blocks[-5:])
    report = wait_until(lambda: (r := deployment.drained()) and r["lost"] and r, BUSY_SECONDS)
    (lost,) = report["lost"]
    assert (lost["shard"], lost["from_step"]) == (0, 1)
    assert 0 < lost["rows"] <= report["samples_trained"]


def test_a_wrong_configuration_ends_it_at_once(tmp_path: Path):
    dump_config(config(tmp_path), tmp_path / "base.yaml")
    (tmp_path / "config.yaml").write_text("extends: base.yaml\ntrainer: {batch_rows: 0}\n")
    command = [sys.executable, "-m", "trainer", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "trainer.batch_rows: 0" in done.stderr

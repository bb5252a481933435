"""The real trainer process on Apache Kafka and real shards, killed (-9) while it trains."""

from __future__ import annotations

import signal
import subprocess
import sys
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
from runtime.kafka import consumer, end_offsets
from runtime.ports import free_port
from schema.codec import DEAD_LETTERS
from schema.config import Config, DumpConfig, KafkaConfig, StreamingConfig
from schema.config_file import dump_config
from schema.dump import positions
from schema.records import SampleBlock
from tests.polling import wait_until
from tests.trainer.deployment import BUSY_SECONDS, Deployment
from tests.trainer.make import DIM, TASKS, JoinerModel, config
from trainer.dedup import DuplicateFilter
from trainer.points import points_in
from trainer.process import history_folder, store_folder


@pytest.fixture
def deployment(tmp_path: Path, topics: KafkaConfig) -> Iterator[Deployment]:
    made = Deployment(tmp_path, topics)
    yield made
    made.close()


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_a_batch_run_over_the_dump_hands_over_to_the_stream_where_the_files_end(deployment: Deployment):
    partitions = [JoinerModel(p, 60, p).emit(crashes=1) for p in range(4)]
    blocks = [b for several in zip_longest(*partitions) for b in several if b is not None]
    half = len(blocks) // 2
    deployment.send_all(blocks[:half])
    deployment.flush()
    dumped = _dumped(deployment, half)
    batch = msgspec.structs.replace(
        dumped, trainer=msgspec.structs.replace(dumped.trainer, mode="batch", ops_port=free_port())
    )
    assert deployment.beside("trainer", batch).wait(BUSY_SECONDS) == 0
    history = points_in(store_folder(deployment.config))[-1]
    assert history.rows == _rows_left(blocks[:half])
    deployment.send_all(blocks[half:])
    deployment.flush()
    deployment.trainer()
    report = wait_until(deployment.drained, BUSY_SECONDS)
    assert report["samples_trained"] == report["overall"]["rows"] == _rows_left(blocks)
    assert report["step"] > history.step
    _applied_once(deployment, report["step"])


def _dumped(deployment: Deployment, messages: int) -> Config:
    """The configuration of a dump that has written so many messages, and ended."""
    streaming = StreamingConfig(dump=DumpConfig(file_seconds=1, ops_port=free_port()))
    changed = msgspec.structs.replace(deployment.config, streaming=streaming)
    process = deployment.beside("streaming.dump", changed)
    wait_until(lambda: sum(positions(history_folder(changed)).values()) == messages, BUSY_SECONDS)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    return changed


@pytest.mark.kafka
@pytest.mark.timeout(900)
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


def test_a_wrong_configuration_ends_it_at_once(tmp_path: Path):
    dump_config(config(tmp_path), tmp_path / "base.yaml")
    (tmp_path / "config.yaml").write_text("extends: base.yaml\ntrainer: {batch_rows: 0}\n")
    command = [sys.executable, "-m", "trainer", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "trainer.batch_rows: 0" in done.stderr

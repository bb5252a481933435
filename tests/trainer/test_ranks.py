"""Several trainer processes under torchrun: every row trained by one of them, the dense model by all alike."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from models.dense import RANKER
from parameter_server.client import ParameterClient
from runtime.kafka import producer
from runtime.ports import free_port
from runtime.processes import die_with_parent
from schema.codec import TRAINING_SAMPLES
from schema.config import Config, KafkaConfig, ParameterServerConfig, ShardConfig
from schema.config_file import dump_config
from schema.errors import ConfigError
from tests.polling import wait_until
from tests.trainer.fakes import Clock, FakeServer, Killer
from tests.trainer.make import RETRIEVAL, JoinerModel, config
from trainer.dedup import DuplicateFilter
from trainer.errors import DeviceMissing
from trainer.ranks import Alone, joined, mine, of_rank
from trainer.step import Learner

SECONDS = 90


class Rank:
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def test_ranks_share_out_the_partitions():
    assert sorted(p for rank in range(3) for p in mine(8, Rank(rank, 3))) == list(range(8))
    assert list(mine(4, Alone())) == [0, 1, 2, 3]


def test_ranks_have_ids_folders_and_ports_of_their_own():
    settings = config("run")
    assert of_rank(settings, Alone()) is settings
    one, two = (of_rank(settings, Rank(rank, 2)) for rank in range(2))
    assert (one.run_dir, two.run_dir) == ("run/rank-0", "run/rank-1")
    assert one.trainer.trainer_id != two.trainer.trainer_id
    assert two.trainer.ops_port == one.trainer.ops_port + 1


def test_several_that_would_learn_retrieval_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"retrieval: configured, .* 2 trainers.*; legal is one trainer"):
        joined(config(retrieval=RETRIEVAL))


def test_without_rows_nothing_is_learned():
    learner = Learner(config(), FakeServer(Killer(), Clock()))
    before = learner.digest()
    for parameter in learner.model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    learner.apply(0)
    assert learner.digest() == before


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissing, match=r"trainer.device: cuda, but .* legal is cpu"):
        Learner(config(device="cuda"), FakeServer(Killer(), Clock()))


@pytest.fixture
def deployed(tmp_path: Path, topics: KafkaConfig) -> Iterator[tuple[Config, subprocess.Popen[bytes]]]:
    base = config(tmp_path / "run", batch_rows=8, batch_wait_seconds=0.05, ops_port=_two_ports())
    shards = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(2))
    tables = base.parameter_server.tables
    settings = msgspec.structs.replace(
        base, kafka=topics, parameter_server=ParameterServerConfig(shards=shards, tables=tables)
    )
    file = tmp_path / "config.yaml"
    dump_config(settings, file)
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    commands = [
        *(["parameter_server", str(file), "--shard", str(i)] for i in range(2)),
        [*torchrun, "-m", "trainer", str(file)],
    ]
    with (tmp_path / "log").open("wb") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", *command],
                stderr=log,
                stdout=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - see there
            )
            for command in commands
        ]
        yield settings, processes[-1]
        for process in reversed(processes):
            process.terminate()
            process.wait(SECONDS)


def _two_ports() -> int:
    """A free port whose successor is free, too."""
    return next(port for port in iter(free_port, 0) if _is_free(port + 1))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _reports(settings: Config) -> list[dict[str, Any]] | None:
    """Of both ranks, once they have trained all there is."""
    found = []
    for rank in range(2):
        url = f"http://127.0.0.1:{settings.trainer.ops_port + rank}/report/trainer"
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                found.append(json.load(reply))
        except (urllib.error.URLError, ConnectionError):
            return None
    return found if all(r.get("lag") == 0 for r in found) else None


@pytest.mark.kafka
def test_two_ranks_train_every_row_once_and_end_with_one_model(deployed):
    settings, torchrun = deployed
    partitions = [JoinerModel(p, 40 + 40 * (p % 2), p).emit(crashes=1) for p in range(2)]
    blocks = [b for several in zip_longest(*partitions) for b in several if b is not None]
    sender = producer(settings.kafka)
    for sample in blocks:
        topic = settings.kafka.topics.training_samples.name
        sender.send(topic, TRAINING_SAMPLES.encode([sample]), partition=sample.source.partition)
    sender.close(10)
    seen = DuplicateFilter()
    seen.begin()
    rows = sum(int(seen.fresh(sample).any(axis=1).sum()) for sample in blocks)

    def trained() -> list[dict[str, Any]] | None:
        found = _reports(settings)
        return found if found and sum(r["samples_trained"] for r in found) == rows else None

    reports = wait_until(trained, SECONDS)
    assert all(r["samples_trained"] for r in reports)
    (digest,) = {r["dense_digest"] for r in reports}
    assert digest != Learner(settings, FakeServer(Killer(), Clock())).digest()
    with ParameterClient(settings.parameter_server) as client:
        steps = {f"trainer-0-rank-{rank}": r["step"] for rank, r in enumerate(reports)}
        assert [client.shard_state(shard).steps for shard in range(2)] == [steps, steps]
        torchrun.send_signal(signal.SIGTERM)
        torchrun.wait(SECONDS)
        published = client.get_dense(RANKER)
    assert published is not None
    assert f"{zlib.crc32(published.payload):08x}" == digest

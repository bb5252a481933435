"""kill -9 of the trainer and of shards on Apache Kafka: bit for bit what a run that was never killed has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from models.dense import RANKER
from parameter_server.client import ParameterClient
from schema.config import KafkaConfig
from tests.polling import wait_until
from tests.trainer.deployment import BUSY_SECONDS, Deployment
from tests.trainer.make import RETRIEVAL, JoinerModel

LOGS = 300
PARTITIONS = 4

Outcome = dict[str, Any]


@contextmanager
def deployed(folder: Path, kafka: KafkaConfig, **settings: Any) -> Iterator[Deployment]:
    with closing(Deployment(folder, kafka, **settings)) as made:
        yield made


def produce(deployment: Deployment) -> None:
    """The whole input, before anyone reads it; all partitions go on at the same time."""
    partitions = [JoinerModel(p, LOGS, p).emit(crashes=2) for p in range(PARTITIONS)]
    deployment.send_all([b for several in zip_longest(*partitions) for b in several if b is not None])
    deployment.flush()


def outcome(deployment: Deployment) -> Outcome:
    """Trains to the end of the input, ends the trainer, and reads everything."""
    report = wait_until(deployment.drained, BUSY_SECONDS)
    deployment.stop_trainer()
    config = deployment.config
    with ParameterClient(config.parameter_server) as client:
        dense = client.get_dense(RANKER)
        assert dense is not None
        return {
            "digests": [
                client.digest(shard, table)
                for shard in range(client.shards)
                for table in ("embedding", "retrieval")
            ],
            "rows": [client.stats(shard).rows for shard in range(client.shards)],
            "dense": (dense.step, dense.payload),
            "overall": report["overall"],
            "step": report["step"],
            "retrieval": report["retrieval"],
        }


@pytest.fixture
def calm(tmp_path: Path, topics: KafkaConfig) -> Outcome:
    """What a run has that nobody kills; it makes no point but the first and the last."""
    with deployed(tmp_path / "calm", topics, recovery_seconds=1000) as deployment:
        produce(deployment)
        deployment.trainer()
        return outcome(deployment)


def kill(deployment: Deployment, rng: random.Random) -> str:
    """Once so many more steps are trained, or while a point is being made, one process dies and another starts."""
    seen = deployment.report() or {"step": 0}
    if rng.random() < 0.4:
        deployment.ask("recovery_point")
    else:
        wanted = seen["step"] + rng.randint(1, 60)
        wait_until(
            lambda: (r := deployment.report()) and (r["step"] >= wanted or r["lag"] == 0), BUSY_SECONDS
        )
    victim = rng.choice(["trainer", "trainer", "shard-0", "shard-1"])
    if victim == "trainer":
        deployment.kill_trainer()
        deployment.trainer()
    else:
        before = (deployment.report() or {}).get("returns", 0)
        deployment.kill_shard(int(victim[-1]))
        # an idle trainer looks every 2 s; until then it would report what the shard no longer has
        wait_until(lambda: (deployment.report() or {}).get("returns", 0) > before, BUSY_SECONDS)
    wait_until(deployment.consuming, BUSY_SECONDS)
    return victim


def killed(folder: Path, kafka: KafkaConfig, seed: int, kills: int, **settings: Any) -> Outcome:
    with deployed(folder, kafka, recovery_seconds=0.5, **settings) as deployment:
        rng = random.Random(seed)
        deployment.trainer()
        wait_until(deployment.consuming, BUSY_SECONDS)
        for _ in range(kills):
            kill(deployment, rng)
        return outcome(deployment)


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_a_run_whose_trainer_and_shards_are_killed_equals_one_that_never_was(
    tmp_path: Path, topics: KafkaConfig, calm: Outcome
):
    assert killed(tmp_path / "wild", topics, seed=1, kills=4) == calm


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 8))
def test_many_kills_at_random_points_change_nothing(
    tmp_path: Path, topics: KafkaConfig, calm: Outcome, seed: int
):
    assert killed(tmp_path / "wild", topics, seed, kills=10) == calm


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(8, 11))
def test_many_kills_change_nothing_of_retrieval_either(tmp_path: Path, topics: KafkaConfig, seed: int):
    """Whose points mostly have only what changed since the one before."""
    with deployed(tmp_path / "calm", topics, recovery_seconds=1000, retrieval=RETRIEVAL) as deployment:
        produce(deployment)
        deployment.trainer()
        expected = outcome(deployment)
    assert expected["retrieval"]["items"] > 0
    assert killed(tmp_path / "wild", topics, seed, kills=10, retrieval=RETRIEVAL) == expected


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_a_rollback_by_command_goes_back_and_training_goes_on(
    tmp_path: Path, topics: KafkaConfig, calm: Outcome
):
    with deployed(tmp_path / "back", topics, recovery_seconds=1000) as deployment:
        deployment.trainer()
        wait_until(partial(deployment.trained, 100), BUSY_SECONDS)
        made = deployment.command("recovery_point")
        wait_until(deployment.drained, BUSY_SECONDS)
        last = deployment.command("recovery_point")
        assert last["number"] > made["number"]
        with pytest.raises(ValueError, match=f"point: 99; legal are 1, {made['number']}, {last['number']}"):
            deployment.command("rollback", to=99)
        epochs = deployment.epochs()
        assert deployment.command("rollback", to=made["number"])["step"] == made["step"]
        wait_until(
            lambda: (r := deployment.report()) and r["returns"] == 1 and deployment.consuming(), BUSY_SECONDS
        )
        assert all(had != has for had, has in zip(epochs, deployment.epochs(), strict=True))
        # cut alike from there on, since all of the input is there: so the end is the same
        assert outcome(deployment) == calm

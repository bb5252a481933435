"""Shard processes: kill -9 and restart on the same port, SIGTERM, health, and bad starts."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from parameter_server import checkpoint
from parameter_server.client import ParameterClient
from parameter_server.errors import CheckpointError, InvalidRequest, ParameterServerError
from parameter_server.process import ShardProcess
from parameter_server.replica import ReplicaTables
from runtime.ports import free_port
from schema.config import Config, ParameterServerConfig, ShardConfig
from schema.config_file import dump_config, load_config
from schema.errors import ConfigError
from tests.parameter_server.cases import SMALL, WIDE, gradients, u64
from tests.polling import wait_until

CONFIGS = Path(__file__).parents[2] / "configs"
IDS = u64(range(500))


class Shards:
    """Shard processes of a configuration of their own."""

    def __init__(self, folder: Path, count: int) -> None:
        places = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(count))
        self.settings = ParameterServerConfig(
            shards=places,
            tables=(SMALL, WIDE),
            checkpoint_seconds=0.2,
            request_seconds=5.0,
            retry_seconds=60.0,
        )
        base = load_config(CONFIGS / "local.yaml")
        self.config: Config = msgspec.structs.replace(
            base, parameter_server=self.settings, retrieval=None, run_dir=str(folder / "run")
        )
        self.path = folder / "config.yaml"
        dump_config(self.config, self.path)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, index: int) -> None:
        command = [sys.executable, "-m", "parameter_server", str(self.path), "--shard", str(index)]
        self.processes[index] = subprocess.Popen(command)

    def stop(self, index: int, how: signal.Signals) -> int:
        process = self.processes.pop(index)
        process.send_signal(how)
        return process.wait(30)

    def folder(self, index: int) -> Path:
        return Path(self.config.run_dir) / f"shard-{index}"

    def close(self) -> None:
        for index in list(self.processes):
            self.stop(index, signal.SIGKILL)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Shards]:
    group = Shards(tmp_path, 2)
    for index in range(2):
        group.start(index)
    yield group
    group.close()


def test_a_shard_killed_under_load_comes_back_and_no_step_is_applied_twice(shards: Shards) -> None:
    rng = np.random.default_rng(0)
    with ParameterClient(shards.settings) as client, ParameterClient(shards.settings) as reader:
        replica = ReplicaTables(shards.settings)
        client.push("a", 0, {"embedding": (IDS, gradients(rng, 500))}, 0)
        replica.apply([reader.delta(shard, replica.position(shard)) for shard in range(2)])
        epoch = reader.shard_state(0).epoch
        wait_until(lambda: checkpoint.found(shards.folder(0)), 20)

        stop = threading.Event()
        failures: list[ParameterServerError] = []
        steps: list[int] = []

        def train() -> None:
            step = 0
            while not stop.is_set():
                step += 1
                try:
                    client.push("a", step, {"embedding": (IDS, gradients(rng, 500))}, 0)
                except ParameterServerError as error:
                    failures.append(error)
                    return
                steps.append(step)

        trainer = threading.Thread(target=train)
        trainer.start()
        wait_until(lambda: len(steps) > 20, 30)
        assert shards.stop(0, signal.SIGKILL) == -signal.SIGKILL
        shards.start(0)
        restarted = len(steps)
        wait_until(lambda: len(steps) > restarted + 20, 60)
        stop.set()
        trainer.join(30)

        assert failures == []
        state = reader.shard_state(0)
        assert state.epoch != epoch
        assert state.steps == {"a": steps[-1]}
        assert state.clock <= steps[-1] + 1, "a step was applied twice"
        assert reader.shard_state(1).clock == steps[-1] + 1, "the shard that lived had every step once"
        deltas = [reader.delta(shard, replica.position(shard)) for shard in range(2)]
        assert [delta.full for delta in deltas] == [True, False]
        replica.apply(deltas)
        for shard in range(2):
            for table in ("embedding", "wide"):
                assert replica.digest(table, shard) == reader.digest(shard, table)[1]


def test_sigterm_checkpoints_and_a_restart_has_it_all(tmp_path: Path) -> None:
    shards, rng = Shards(tmp_path, 1), np.random.default_rng(1)
    shards.start(0)
    with closing(shards), ParameterClient(shards.settings) as client:
        client.push("a", 0, {"wide": (IDS, gradients(rng, 500, WIDE.dim))}, 0)
        client.put_dense("model", 1, 0, b"weights")
        before = client.digest(0, "wide")
        assert shards.stop(0, signal.SIGTERM) == 0
        shards.start(0)
        assert client.digest(0, "wide") == before
        assert client.get_dense("model") == (1, 0, b"weights")

        ops = f"http://127.0.0.1:{shards.settings.shards[0].ops_port}"
        pages = [httpx.get(f"{ops}/{page}", timeout=5).status_code for page in ("healthz", "readyz")]
        assert pages == [200, 200]
        assert client.health(0).allowed == shards.settings.most_requests
        report = httpx.get(f"{ops}/report/shard", timeout=5).json()
        assert report == client.shard_state(0)._asdict() | {
            "index": 0,
            "rows": {"embedding": 0, "wide": 500},
            "evictions": 0,
        }
        digests = httpx.get(f"{ops}/report/digest", timeout=5).json()
        assert digests["wide"] == {"clock": before[0], "digest": before[1]}
        metrics = httpx.get(f"{ops}/metrics", timeout=5).text
        assert 'headwater_ps_rows{table="wide"} 500.0' in metrics
        assert "headwater_ps_clock 1.0" in metrics
        with pytest.raises(InvalidRequest, match="gradients: id 0 has"):
            client.push("a", 1, {"wide": (IDS[:1], np.full((1, WIDE.dim), np.nan, np.float32))}, 0)
        metrics = httpx.get(f"{ops}/metrics", timeout=5).text
        assert 'headwater_ps_row_events{kind="refused",table="wide"} 1.0' in metrics


def test_a_shard_that_cannot_start_says_why(tmp_path: Path) -> None:
    shards = Shards(tmp_path, 1)
    with pytest.raises(ConfigError, match="shard: 1; legal is 0 to 0"):
        ShardProcess(shards.config, 1)
    (shards.folder(0) / "checkpoint-000000000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="checkpoint-000000000001: manifest"):
        ShardProcess(shards.config, 0)
    shards.path.write_text("nonsense: 1")
    command = [sys.executable, "-m", "parameter_server", str(shards.path), "--shard", "0"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, text=True)
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "Traceback" not in done.stderr

"""The operator's commands against running shards and a replica's report."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from parameter_server import ps
from parameter_server.client import ParameterClient
from parameter_server.errors import CheckpointError, InvalidRequest
from parameter_server.process import ShardProcess
from runtime.ops import OpsServer
from runtime.ports import free_port
from schema.config import Config, ParameterServerConfig, ReplicaConfig, ServingConfig, ShardConfig
from schema.config_file import dump_config, load_config
from schema.errors import ConfigError
from schema.ids import feature_id
from tests.parameter_server.cases import SMALL, WIDE, u64

CONFIGS = Path(__file__).parents[2] / "configs"
IDS = u64(feature_id(3, value) for value in range(40))


class Deployment:
    """Two shards in threads of this process, a replica that only reports, and one that is away."""

    def __init__(self, folder: Path) -> None:
        self.clocks: list[tuple[int, int]] = [(0, 0), (0, 0)]
        self.replica = OpsServer("127.0.0.1", 0, lambda: True, {"replica": lambda: {"clocks": self.clocks}})
        self.replica.start()
        places = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(2))
        away = ReplicaConfig(port=free_port())
        base = load_config(CONFIGS / "local.yaml")
        self.settings = ParameterServerConfig(
            shards=places, tables=(SMALL, WIDE), checkpoint_seconds=1000.0, retry_seconds=2.0
        )
        self.config: Config = msgspec.structs.replace(
            base,
            parameter_server=self.settings,
            retrieval=None,
            run_dir=str(folder / "run"),
            serving=ServingConfig(replicas=(ReplicaConfig(port=self.replica.port), away)),
        )
        self.path = folder / "config.yaml"
        dump_config(self.config, self.path)
        self.stop = threading.Event()
        processes = [ShardProcess(self.config, index) for index in range(2)]
        self.threads = [threading.Thread(target=p.run, args=(self.stop,)) for p in processes]
        for thread in self.threads:
            thread.start()
        self.client = ParameterClient(self.settings)

    def end_shards(self) -> None:
        self.client.close()
        self.stop.set()
        for thread in self.threads:
            thread.join(30)

    def run(self, *arguments: str) -> str:
        result = CliRunner().invoke(ps.app, [*arguments, "--config", str(self.path)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    one = Deployment(tmp_path)
    yield one
    one.end_shards()
    one.replica.stop()


def test_stats_and_digest(deployment: Deployment) -> None:
    deployment.client.push("t", 4, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 0)
    deployment.client.evict("embedding", IDS[:3])
    shards = deployment.ask("stats")
    assert sum(shard["rows"]["embedding"] for shard in shards) == 37
    assert sum(shard["tombstones"]["embedding"] for shard in shards) == 3
    assert [shard["steps"] for shard in shards] == [{"t": 4}] * 2
    assert all(shard["bytes"]["embedding"] > 0 for shard in shards)
    digests = deployment.ask("digest")
    assert [(d["shard"], d["table"]) for d in digests] == [
        (shard, table) for shard in range(2) for table in ("embedding", "wide")
    ]
    assert [int(d["digest"], 16) for d in digests[:1]] == [deployment.client.digest(0, "embedding")[1]]
    for text in (deployment.run("stats"), deployment.run("digest")):
        assert "embedding" in text


def test_why_says_what_is_known_of_an_id_and_which_replicas_have_it(deployment: Deployment) -> None:
    client = deployment.client
    client.push("t", 0, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 777)
    wanted = int(IDS[9])
    found = deployment.ask("why", "3:9")
    shard, version = found["shard"], found["version"]
    assert (found["id"], found["slot"], found["value"], found["width"]) == (wanted, 3, 9, 4)
    assert (found["last_use"], found["removed_at"]) == (1000, None)
    assert found["state_norm"] == pytest.approx(1.025)
    assert found["vector"] == pytest.approx(client.pull("embedding", IDS[9:10])[0].tolist())
    assert [r["has_it"] for r in found["replicas"]] == ["no, it is of another epoch", "unknown"]
    epoch = client.shard_state(shard).epoch
    for clock, expected in ((version - 1, "not yet"), (version, "yes"), (version + 5, "yes")):
        deployment.clocks[shard] = (epoch, clock)
        assert deployment.ask("why", str(wanted))["replicas"][0]["has_it"] == expected
    assert "1.025" in deployment.run("why", "3:9")

    client.evict("embedding", IDS[9:10])
    gone = deployment.ask("why", "3:9")
    assert (gone["row"], gone["version"], gone["removed_at"]) == (None, None, version + 1)
    never = deployment.ask("why", "5:name")
    assert (never["row"], never["removed_at"], len(never["vector"])) == (None, None, 4)
    assert never["replicas"][0]["has_it"].startswith(("yes, nothing", "no"))


@pytest.mark.parametrize("wrong", ["x", "3.5", str(2**64), "70000:1", ":"])
def test_an_id_that_is_none_is_refused(wrong: str) -> None:
    result = CliRunner().invoke(ps.app, ["why", wrong, "--config", str(CONFIGS / "local.yaml")])
    assert isinstance(result.exception, ConfigError)
    assert "legal is a number below 2^64, or SLOT:VALUE" in str(result.exception)


def test_checkpoint_and_restore_by_name(deployment: Deployment) -> None:
    client = deployment.client
    client.push("t", 0, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 0)
    before = [client.digest(shard, "embedding") for shard in range(2)]
    made = deployment.ask("checkpoint", "good")
    assert [m["file"] for m in made] == ["checkpoint-000000000001-good"] * 2
    epochs = [client.shard_state(shard).epoch for shard in range(2)]
    client.push("t", 1, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 0)
    assert [client.digest(shard, "embedding") for shard in range(2)] != before
    with pytest.raises(InvalidRequest, match="checkpoint: 'bad'; legal are good"):
        deployment.run("restore", "bad")
    back = deployment.ask("restore", "good")
    assert [client.digest(shard, "embedding") for shard in range(2)] == before
    assert all(m["epoch"] != epoch for m, epoch in zip(back, epochs, strict=True))
    assert client.push("t", 1, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 0).applied == (True, True)
    assert "good" in deployment.run("checkpoint", "good")


def test_restore_from_folders_makes_checkpoints_for_another_number_of_shards(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.client.push("t", 0, {"embedding": (IDS, np.ones((40, 4), np.float32))}, 0)
    rows = deployment.client.pull("embedding", IDS)
    deployment.end_shards()
    one = msgspec.structs.replace(
        deployment.config,
        run_dir=str(tmp_path / "new"),
        parameter_server=msgspec.structs.replace(
            deployment.settings, shards=(ShardConfig(port=free_port(), ops_port=free_port()),)
        ),
    )
    dump_config(one, deployment.path)
    folders = [str(Path(deployment.config.run_dir) / f"shard-{index}") for index in range(2)]
    with pytest.raises(CheckpointError, match="legal are the folders of all shards"):
        deployment.run("restore", "--from", folders[0])
    made = deployment.ask("restore", "--from", folders[1], "--from", folders[0])
    assert [(m["shard"], m["rows"]["embedding"]) for m in made] == [(0, 40)]
    process = ShardProcess(one, 0)
    assert np.array_equal(process._shard.pull([("embedding", IDS)])[0], rows)
    process._server.shutdown()
    process._ops.stop()
    process._checkpoints.close()
    with pytest.raises(CheckpointError, match="shard-0: has checkpoints; legal is a folder without"):
        deployment.run("restore", "--from", folders[0], "--from", folders[1])


def test_what_an_operator_can_mend_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "parameter_server.ps", "stats", "--config", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60, text=True)
    assert done.returncode == 2, done.stderr
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_restore_of_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ps", "restore", "--config", str(CONFIGS / "local.yaml")])
    with pytest.raises(SystemExit) as ended:
        ps.main()
    assert ended.value.code == 2
    assert "either a NAME or --from DIR" in capsys.readouterr().err

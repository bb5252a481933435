"""The process of the simulated users: how it starts, stops and reports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from runtime.ports import free_port
from schema.config import Config
from schema.config_file import dump_config
from simulation import simulate as program
from simulation.errors import OpsPortTaken, ServingUnavailable
from simulation.simulate import Summary, main, simulate
from tests.polling import wait_until
from tests.simulation.fakes import FakeReplica, local_config

FOLDER = tempfile.mkdtemp(prefix="headwater-simulate-")
CONFIG = local_config(
    run_dir=FOLDER,
    simulation__ops_port=free_port(),
    simulation__users=20,
    simulation__items=100,
    simulation__action_delay_seconds=0.01,
    launch__ready_seconds=20,
)


def _simulate(replica: FakeReplica, seconds: float | None, config: Config = CONFIG) -> Summary:
    async def run() -> Summary:
        async with replica.client() as http:
            return await simulate(config, 100.0, seconds, http)

    return asyncio.run(run())


def test_it_runs_for_its_time_and_delivers_everything() -> None:
    replica = FakeReplica()
    summary = _simulate(replica, 0.5)
    assert summary.feeds == len(replica.taken["/v1/feed"]) > 0
    assert summary.impressions == 10 * summary.feeds
    assert summary.actions == len(replica.actions())
    clicks = sum(a["kind"] == "click" for a in replica.actions())
    assert summary.click_rate == pytest.approx(clicks / summary.impressions, abs=1e-4)
    assert summary.errors == 0
    assert replica.tries[:2] == ["/v1/items", "/v1/users"]


def test_the_truth_is_written_apart() -> None:
    replica = FakeReplica()
    summary = _simulate(replica, 0.3)
    truth = pq.read_table(Path(FOLDER) / "truth.parquet")
    assert truth.num_rows == summary.feeds
    assert 0 < min(truth["interest"].to_pylist()) <= max(truth["interest"].to_pylist()) < 1
    assert not any(truth["frozen"].to_pylist())
    sent = json.dumps(replica.taken)
    assert "interest" not in sent


def test_half_of_the_users_go_to_the_frozen_replica() -> None:
    replicas = [{"port": 1}, {"port": 2, "freeze_after_seconds": 1}]
    replica = FakeReplica()
    _simulate(
        replica,
        0.5,
        msgspec.convert(msgspec.to_builtins(CONFIG) | {"serving": {"replicas": replicas}}, Config),
    )
    ports = {port for path, port in replica.asked if path == "/v1/feed"}
    assert ports == {1, 2}
    assert {port for path, port in replica.asked if path == "/v1/items"} == {1}
    truth = pq.read_table(Path(FOLDER) / "truth.parquet").to_pydict()
    by_user: dict[int, bool] = {}
    for user, frozen in zip(truth["user"], truth["frozen"], strict=True):
        assert by_user.setdefault(user, frozen) == frozen, "a user stays in one half"
    assert set(by_user.values()) == {True, False}


def test_a_trend_can_be_injected_and_is_told_of() -> None:
    base = f"http://127.0.0.1:{CONFIG.simulation.ops_port}"
    told: list[httpx.Response] = []

    def inject() -> None:
        wait_until(lambda: _answers(f"{base}/report/simulation"), 20)
        told.append(httpx.post(f"{base}/command/trend", json={"topic": 3, "strength": 0.5}))
        told.append(httpx.post(f"{base}/command/trend", json={"topic": 99}))
        told.append(httpx.post(f"{base}/command/trend", json={"strength": 2}))
        told.append(httpx.get(f"{base}/report/simulation"))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=inject)
    thread.start()
    summary = _simulate(FakeReplica(), 30.0)
    thread.join(10)
    accepted, no_topic, too_strong, report = told
    assert accepted.json() | {"at": 0} == {"at": 0, "topic": 3, "strength": 0.5}
    assert no_topic.status_code == too_strong.status_code == 422
    assert "legal is 0 to 15" in no_topic.text
    assert report.json()["trends"] == summary.trends == [accepted.json()]
    assert report.json()["best_interest"] > 0.5


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_a_taken_ops_port_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", CONFIG.simulation.ops_port)),
        pytest.raises(OpsPortTaken, match="ops_port"),
    ):
        _simulate(FakeReplica(), 0.1)


def test_sigterm_ends_it_in_good_order() -> None:
    def fault(path: str, nth: int) -> None:
        if (path, nth) == ("/v1/feed", 5):
            os.kill(os.getpid(), signal.SIGTERM)

    replica = FakeReplica(fault)
    summary = _simulate(replica, None)
    assert summary.feeds >= 4
    assert summary.actions == len(replica.actions())


def test_sigterm_while_no_replica_answers_yet() -> None:
    def fault(_path: str, nth: int) -> httpx.Response:
        if nth == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return httpx.Response(503)

    assert _simulate(FakeReplica(fault), None) == Summary(0, 0, 0, 2, 0.0)


def test_no_replica_at_all_is_told() -> None:
    config = local_config(launch__ready_seconds=0.05, run_dir=FOLDER, simulation__ops_port=free_port())
    replica = FakeReplica(lambda _path, _nth: httpx.Response(503))
    with pytest.raises(ServingUnavailable, match=r"serving\.replicas"):
        _simulate(replica, 1.0, config)


def _invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(arguments))


def test_the_last_line_is_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = FakeReplica()
    http = replica.client()
    monkeypatch.setattr(program, "Connections", lambda _most: http)
    dump_config(CONFIG, tmp_path / "c.yaml")
    result = _invoke("--config", str(tmp_path / "c.yaml"), "--seconds", "0.1", "--rate", "50")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert set(said) == {"feeds", "impressions", "actions", "errors", "click_rate", "born", "trends"}


BAD = {
    "a rate of 0": (["--rate", "0"], 2, "greater than or equal to 0.001"),
    "a negative time": (["--seconds", "-1"], 2, "greater than or equal to 0"),
    "a missing configuration": (["--config", "none.yaml"], 1, "none.yaml: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told(case: str) -> None:
    arguments, code, message = BAD[case]
    result = _invoke(*arguments)
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())


def test_as_a_process_it_says_why_it_cannot_start(tmp_path: Path) -> None:
    port = free_port()
    config = local_config(
        serving__replicas=[{"port": port}], launch__ready_seconds=0.3, simulation__ops_port=free_port()
    )
    dump_config(config, tmp_path / "c.yaml")

    async def run() -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "simulation.simulate", "--config", str(tmp_path / "c.yaml")),
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
        return process.returncode, errors.decode()

    code, errors = asyncio.run(run())
    assert code == 1
    assert "simulate: no replica took the simulated items and users within 0.3 s" in errors

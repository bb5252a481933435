"""The whole loop as an operator runs it: the demo as a process, on a Kafka of its own, with roles killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.ports import free_port
from tests.polling import wait_until

ROOT = Path(__file__).parents[2]
PORTS = (
    "kafka.local_port",
    "parameter_server.shards.0.port",
    "parameter_server.shards.0.ops_port",
    "parameter_server.shards.1.port",
    "parameter_server.shards.1.ops_port",
    "streaming.ops_port",
    "trainer.ops_port",
    "simulation.ops_port",
    "serving.replicas.0.port",
)
QUICK = ("streaming.window_seconds=2", "simulation.action_delay_seconds=0.3", "kafka.heap_mb=256")


@contextmanager
def demo(run_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    settings = [f"run_dir={run_dir}", *(f"{port}={free_port()}" for port in PORTS), *QUICK]
    options = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "demo", "--no-page", *arguments, *options]
    with (run_dir.parent / "demo.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def finished(process: subprocess.Popen[bytes], run_dir: Path, report: Path, seconds: float) -> dict[str, Any]:
    wait_until(lambda: process.poll() is not None, seconds, every=0.5)
    said = (run_dir.parent / "demo.log").read_text()
    assert process.returncode == 0, said
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def processes(run_dir: Path) -> dict[str, Any]:
    state = run_dir / "processes.json"
    return json.loads(state.read_text()) if state.exists() else {}


def assert_whole(report: dict[str, Any]) -> None:
    assert report["exposures"] > 100
    assert report["samples_trained"] == report["exposures"]
    assert report["replica_digest_matches"] == {"shard-0": True, "shard-1": True}
    retrieval = report["retrieval"]
    assert retrieval["share_of_shown"]["retrieved"] > 0, "feeds hold what retrieval has learned"
    assert retrieval["structure"]["items"] >= 2000, "also what nobody has seen"


@pytest.mark.kafka
@pytest.mark.parametrize("victims", [("joiner-0", "trainer"), ("replica-0", "shard-1")], ids="+".join)
def test_a_killed_role_comes_back_and_nothing_is_lost_or_doubled(
    tmp_path: Path, victims: tuple[str, ...]
) -> None:
    run_dir, report = tmp_path / "run", tmp_path / "report.json"
    with demo(run_dir, "--seconds", "40", "--report", str(report)) as process:
        # not before the load is on, so that there is something to lose
        wait_until(lambda: "feeding the loop" in (tmp_path / "demo.log").read_text(), 90)
        for victim in victims:
            before = wait_until(lambda v=victim: processes(run_dir).get(v, {}).get("pid"), 30)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda v=victim, b=before: processes(run_dir)[v]["pid"] not in (None, b), 30)
        found = finished(process, run_dir, report, 180)
    assert_whole(found)
    assert found["restarts"].keys() >= set(victims)
    reasons = found["measured"]["dead_letters_by_reason"]
    if "replica-0" in victims:
        # users' actions wait for the only replica to return, and some windows end before that
        assert reasons.keys() <= {"late_action"}
    else:
        assert reasons == {}

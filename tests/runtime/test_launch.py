"""Launching: which processes a configuration has, what --only takes, and what is wrong said before a start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from runtime.launch import supervise
from runtime.ports import free_port
from runtime.roles import process_specs, select
from schema.config import DumpConfig
from schema.config_file import load_config
from schema.errors import ConfigError
from tests.polling import wait_until

_LOCAL = Path("configs/local.yaml")
_NAMES = ["kafka", "topics", "shard-0", "shard-1", "joiner-0", "trainer", "replica-0", "console"]


@pytest.fixture
def config(tmp_path):
    return load_config(_LOCAL, {"run_dir": str(tmp_path / "run")})


@pytest.fixture
def specs(config):
    return process_specs(config, Path("run/config.yaml"))


def names(specs):
    return [spec.name for spec in specs]


def test_all_roles_of_the_local_configuration_in_order(specs):
    assert names(specs) == _NAMES
    assert [spec.stage for spec in specs] == sorted(spec.stage for spec in specs)


def test_a_configured_broker_is_not_started(config):
    kafka = msgspec.structs.replace(config.kafka, bootstrap="kafka:9092")
    assert names(process_specs(msgspec.structs.replace(config, kafka=kafka), Path("c"))) == _NAMES[1:]


def test_the_command_lines_of_the_roles(specs):
    commands = {spec.name: " ".join(spec.argv[1:]) for spec in specs}
    assert commands["shard-1"] == "-m parameter_server run/config.yaml --shard 1"
    assert commands["joiner-0"] == "-m streaming run/config.yaml --worker 0"
    assert commands["trainer"] == "-m trainer run/config.yaml"
    assert commands["replica-0"] == "-m serving run/config.yaml --replica 0"
    assert commands["topics"] == "-m runtime.topics run/config.yaml"


def test_a_configured_dump_is_a_role(config):
    streaming = msgspec.structs.replace(config.streaming, dump=DumpConfig())
    specs = process_specs(msgspec.structs.replace(config, streaming=streaming), Path("c"))
    assert " ".join(next(s for s in specs if s.name == "dump").argv[1:]) == "-m streaming.dump c"


@pytest.mark.parametrize(
    ("only", "started"),
    [
        ([], _NAMES),
        (["shard"], ["shard-0", "shard-1"]),
        (["shard-1"], ["shard-1"]),
        (["trainer", "kafka", "shard-0"], ["kafka", "shard-0", "trainer"]),
    ],
)
def test_only_takes_kinds_and_names(specs, only, started):
    assert names(select(specs, only)) == started


def test_an_unknown_role_is_refused_with_the_legal_ones(specs):
    with pytest.raises(
        ConfigError, match=r"only: shard-7, worker; legal are console, joiner, joiner-0, kafka, .*trainer"
    ):
        select(specs, ["worker", "shard-7", "kafka"])


def test_the_roles_read_the_resolved_configuration(config, tmp_path):
    supervise(config, ["topics"])
    assert load_config(tmp_path / "run" / "config.yaml") == config


def launch(*arguments):
    return [sys.executable, "-m", "runtime.launch", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([_LOCAL, "--only", "nope"], "error: only: nope; legal are "),
        ([_LOCAL, "trainer"], "error: arguments: trainer; legal are "),
        (["configs/nope.yaml"], "error: configs/nope.yaml: cannot be read"),
        ([_LOCAL, "--set", "sync"], "error: override: 'sync'; legal is "),
        ([_LOCAL, "--set", "sync.sparse_seconds=0"], "error: sync.sparse_seconds: 0"),
        ([_LOCAL, "--set", "sync.nope=1"], "sync.nope"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_started(arguments, message, tmp_path):
    command = launch(*arguments, "--set", f"run_dir={tmp_path / 'run'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.kafka
def test_kafka_and_its_topics_start_and_the_first_signal_stops_them_in_order(tmp_path):
    run_dir = tmp_path / "run"
    settings = [f"run_dir={run_dir}", f"kafka.local_port={free_port()}", "kafka.heap_mb=256"]
    options = [part for setting in settings for part in ("--set", setting)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(launch(_LOCAL, *options, "--only", "kafka", "topics"), stderr=log)
    try:
        wait_until(lambda: "ready: kafka, topics" in (tmp_path / "log").read_text(), 90)
        for number in (signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(10)
    text = (tmp_path / "log").read_text()
    assert "made topic feature-logs with 4 partitions" in text
    assert "Traceback" not in text
    assert '"pid": null' in (run_dir / "processes.json").read_text()
    assert "shut down completed" in (run_dir / "kafka" / "logs" / "kafka.log").read_text()


@pytest.mark.kafka
def test_a_role_that_cannot_start_ends_the_launch_with_its_last_lines(tmp_path):
    """Topics without a broker: nothing listens where the configuration says."""
    options = ["run_dir=" + str(tmp_path / "run"), f"kafka.bootstrap=127.0.0.1:{free_port()}"]
    options.append("launch.ready_seconds=1")
    command = launch(_LOCAL, "--only", "topics", *(part for o in options for part in ("--set", o)))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, "X": ""}
    )
    assert done.returncode == 1
    assert "error: topics " in done.stderr

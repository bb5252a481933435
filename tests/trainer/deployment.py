"""Two shards and a trainer as processes, on the broker of the tests."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from parameter_server.client import ParameterClient
from runtime.kafka import producer
from runtime.ports import free_port
from runtime.processes import die_with_parent
from schema.codec import TRAINING_SAMPLES
from schema.config import Config, KafkaConfig, ParameterServerConfig, ShardConfig, TrainerConfig
from schema.config_file import dump_config
from schema.records import SampleBlock
from tests.trainer.make import config

BUSY_SECONDS = 240


class Deployment:
    """Two shards and a trainer as processes, on the broker of the tests."""

    def __init__(
        self, folder: Path, kafka: KafkaConfig, *, retrieval: dict[str, Any] | None = None, **trainer: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        base = config(folder / "run", retrieval=retrieval)
        shards = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(2))
        self.config: Config = msgspec.structs.replace(
            base,
            kafka=kafka,
            parameter_server=ParameterServerConfig(shards=shards, tables=base.parameter_server.tables),
            trainer=TrainerConfig(
                **{"batch_rows": 8, "batch_wait_seconds": 0.05, "ops_port": free_port(), **trainer}
            ),
        )
        self._path = folder / "config.yaml"
        dump_config(self.config, self._path)
        self._log = (folder / "log").open("wb")
        self._processes: list[subprocess.Popen[bytes]] = []
        self.shards = [self._shard(i) for i in range(2)]
        self._trainer: subprocess.Popen[bytes] | None = None
        self._producer = producer(kafka)
        self._http = httpx.Client(verify=False)  # noqa: S501 - plain HTTP, for which no certificates are read

    def _spawn(self, module: str, *more: str, path: Path | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(path or self._path), *more],
            stderr=self._log,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - see there
        )
        self._processes.append(process)
        return process

    def _shard(self, index: int) -> subprocess.Popen[bytes]:
        return self._spawn("parameter_server", "--shard", str(index))

    def trainer(self) -> subprocess.Popen[bytes]:
        self._trainer = self._spawn("trainer")
        return self._trainer

    def beside(self, module: str, changed: Config) -> subprocess.Popen[bytes]:
        """Another process of this deployment, with a configuration of its own."""
        path = self._path.with_name(f"{module}.yaml")
        dump_config(changed, path)
        return self._spawn(module, path=path)

    def kill_trainer(self) -> None:
        assert self._trainer is not None
        self._trainer.kill()
        self._trainer.wait()

    def stop_trainer(self) -> None:
        assert self._trainer is not None
        self._trainer.send_signal(signal.SIGTERM)
        assert self._trainer.wait(60) == 0

    def kill_shard(self, index: int) -> None:
        """It comes back at once."""
        self.shards[index].kill()
        self.shards[index].wait()
        self.shards[index] = self._shard(index)

    def epochs(self) -> list[int]:
        with ParameterClient(self.config.parameter_server) as client:
            return [client.shard_state(shard).epoch for shard in range(client.shards)]

    def consuming(self) -> bool:
        try:
            return self._http.get(f"{self._ops}/readyz", timeout=10).is_success
        except httpx.HTTPError:
            return False

    def command(self, name: str, **given: Any) -> dict[str, Any]:
        """What the trainer answers; ValueError with what it refuses."""
        answer = self._http.post(f"{self._ops}/command/{name}", json=given, timeout=60)
        if answer.is_success:
            return answer.json()
        raise ValueError(answer.text)

    def ask(self, name: str) -> None:
        """Give a command to a trainer that may die of it, and do not wait."""

        def post() -> None:
            with suppress(httpx.HTTPError):
                self._http.post(f"{self._ops}/command/{name}", json={}, timeout=60)

        threading.Thread(target=post, daemon=True).start()

    @property
    def _ops(self) -> str:
        return f"http://127.0.0.1:{self.config.trainer.ops_port}"

    def flush(self) -> None:
        self._producer.flush(30)

    def report(self) -> dict[str, Any] | None:
        try:
            answer = self._http.get(f"{self._ops}/report/trainer", timeout=10)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.is_success else None

    def trained(self, rows: int) -> dict[str, Any] | None:
        report = self.report()
        return report if report and report.get("samples_trained", 0) >= rows else None

    def drained(self) -> dict[str, Any] | None:
        report = self.report()
        return report if report and report["lag"] == 0 and self.consuming() else None

    def send(self, partition: int, payload: bytes) -> None:
        topic = self.config.kafka.topics.training_samples.name
        self._producer.send(topic, payload, partition=partition)

    def send_all(self, blocks: Sequence[SampleBlock]) -> None:
        for block in blocks:
            self.send(block.source.partition, TRAINING_SAMPLES.encode([block]))

    def close(self) -> None:
        self._http.close()
        self._producer.close(10)
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()

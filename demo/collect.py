"""One look at all roles: their JSON reports, fetched over HTTP. A role that is down gives None."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Self

import httpx

from schema.config import Config

_SECONDS: Final = 2.0

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the roles said of themselves at one moment, in the order of the configuration."""

    trainer: Report | None = None
    joiners: tuple[Report | None, ...] = ()
    shards: tuple[Report | None, ...] = ()
    replicas: tuple[Report | None, ...] = ()
    restarts: dict[str, int] = field(default_factory=dict)
    simulation: Report | None = None

    def joined(self, name: str) -> int:
        """The sum of one figure over the joiners that answer."""
        return sum(int(j.get(name, 0)) for j in self.joiners if j)

    @property
    def samples_trained(self) -> int:
        """Rows trained so far; 0 while the trainer is away."""
        return int(self.trainer["samples_trained"]) if self.trainer else 0


class Collector:
    """Fetches the roles' reports, all at once."""

    def __init__(self, config: Config) -> None:
        key = config.serving.api_key
        self._client = httpx.Client(timeout=_SECONDS, headers={"x-api-key": key} if key else {})
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="collect")
        ops, server = config.ops_host, config.parameter_server
        self._trainer = f"http://{ops}:{config.trainer.ops_port}/report/trainer"
        workers = range(config.streaming.workers)
        self._joiners = [f"http://{ops}:{config.streaming.ops_port + i}/report/joiner" for i in workers]
        self._shards = [f"http://{s.host}:{s.ops_port}/report/shard" for s in server.shards]
        self._replicas = [f"http://{r.host}:{r.port}" for r in config.serving.replicas]
        self._simulation = f"http://{ops}:{config.simulation.ops_port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._client.close()

    def snapshot(self, restarts: dict[str, int]) -> Snapshot:
        """The reports of all roles now."""
        replicas = [f"{r}/report/replica" for r in self._replicas]
        simulation = f"{self._simulation}/report/simulation"
        urls = [self._trainer, simulation, *self._joiners, *self._shards, *replicas]
        trainer, simulated, *rest = self._pool.map(self._get, urls)
        joiners, shards = len(self._joiners), len(self._shards)
        return Snapshot(
            trainer,
            tuple(rest[:joiners]),
            tuple(rest[joiners : joiners + shards]),
            tuple(rest[joiners + shards :]),
            restarts,
            simulated,
        )

    def inject_trend(self) -> Report:
        """Has the users' interest turn to what they like least now; what the simulator says of it.

        Raises:
            httpx.HTTPError: the simulator did not take it.
        """
        answer = self._client.post(f"{self._simulation}/command/trend", json={}).raise_for_status()
        trend: Report = answer.json()
        return trend

    def sync_replicas(self, seconds: float) -> None:
        """Has every replica run one whole sync round now.

        Raises:
            httpx.HTTPError: a replica did not, within `seconds`.
        """
        for replica in self._replicas:
            self._client.post(f"{replica}/v1/sync", timeout=seconds).raise_for_status()

    def replica_digests(self) -> list[list[Report]]:
        """For each replica, its digest of each shard's part of each table.

        Raises:
            httpx.HTTPError: a replica did not answer.
        """
        found = []
        for replica in self._replicas:
            answer = self._client.get(f"{replica}/report/digests", timeout=60.0)
            answer.raise_for_status()
            found.append(answer.json())
        return found

    def _get(self, url: str) -> Report | None:
        try:
            answer = self._client.get(url)
            answer.raise_for_status()
            report: Report = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        return report

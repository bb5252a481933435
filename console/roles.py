"""The roles over HTTP: their reports, and what an operator or a viewer may ask of them.

A role that does not answer gives None, or an error in words; nothing here raises for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from schema.config import Config

_SECONDS: Final = 2.0
_POINT_SECONDS: Final = 130.0
"""For a recovery point: all shards have to write one, too."""
_PHONE_FEED: Final = 5

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the roles said of themselves at one moment (Unix seconds), in the order of the configuration."""

    at: float
    trainer: Report | None = None
    simulation: Report | None = None
    joiners: tuple[Report | None, ...] = ()
    shards: tuple[Report | None, ...] = ()
    replicas: tuple[Report | None, ...] = ()

    @property
    def answering(self) -> tuple[int, int]:
        """How many roles answer, of how many; the simulated users, who may be away, count if they answer."""
        roles = [self.trainer, *self.joiners, *self.shards, *self.replicas]
        extra = int(self.simulation is not None)
        return sum(role is not None for role in roles) + extra, len(roles) + extra


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: the JSON it was answered with, or why it was not."""

    body: Report = field(default_factory=dict)
    error: str | None = None


class Roles:
    """The roles of `config`. For one event loop."""

    def __init__(self, config: Config, transport: httpx.AsyncBaseTransport | None = None) -> None:
        key = config.serving.api_key
        headers = {"x-api-key": key} if key else {}
        self._http = httpx.AsyncClient(timeout=_SECONDS, headers=headers, transport=transport)
        # short, so that what a person does with it soon shows in the next, and is not late for its window
        self._feed_size = min(_PHONE_FEED, config.serving.feed_size)
        ops, hosts = config.ops_host, config.console.hosts
        trainer, joiner = hosts.get("trainer", ops), hosts.get("joiner", ops)
        self._trainer = f"http://{trainer}:{config.trainer.ops_port}"
        self._simulation = f"http://{hosts.get('simulation', ops)}:{config.simulation.ops_port}"
        workers = range(config.streaming.workers)
        self._joiners = [f"http://{joiner}:{config.streaming.ops_port + i}/report/joiner" for i in workers]
        shards = config.parameter_server.shards
        self._shards = [f"http://{s.host}:{s.ops_port}/report/shard" for s in shards]
        self.replicas = [f"http://{hosts.get('replica', r.host)}:{r.port}" for r in config.serving.replicas]
        self.frozen = [r.freeze_after_seconds is not None for r in config.serving.replicas]

    async def snapshot(self, at: float) -> Snapshot:
        """The reports of all roles now."""
        replicas = [f"{url}/report/replica" for url in self.replicas]
        simulation = f"{self._simulation}/report/simulation"
        urls = [f"{self._trainer}/report/trainer", simulation, *self._joiners, *self._shards, *replicas]
        trainer, simulated, *rest = await asyncio.gather(*(self._report(url) for url in urls))
        joiners, shards = len(self._joiners), len(self._shards)
        return Snapshot(
            at,
            trainer,
            simulated,
            tuple(rest[:joiners]),
            tuple(rest[joiners : joiners + shards]),
            tuple(rest[joiners + shards :]),
        )

    async def change_sync(self, **settings: Any) -> list[Answer]:
        """Have every replica that is to go on learning take its rounds otherwise."""
        learning = [url for url, frozen in zip(self.replicas, self.frozen, strict=True) if not frozen]
        return [await self._post(f"{url}/v1/sync/settings", settings) for url in learning]

    async def recovery_point(self) -> Answer:
        """Have the trainer make a recovery point of the whole deployment now; it is described."""
        return await self._post(f"{self._trainer}/command/recovery_point", {}, _POINT_SECONDS)

    async def roll_back(self, number: int) -> Answer:
        """Have everything return to the recovery point of that number; it is described."""
        return await self._post(f"{self._trainer}/command/rollback", {"to": number}, _POINT_SECONDS)

    async def inject_trend(self, topic: int | None, strength: float) -> Answer:
        """Have a trend set in among the simulated users."""
        return await self._post(f"{self._simulation}/command/trend", {"topic": topic, "strength": strength})

    async def feed(self, user: int) -> Answer:
        """A short feed for `user`, of the first replica that answers."""
        return await self._post_any("/v1/feed", {"user_id": user, "size": self._feed_size})

    async def act(self, user: int, actions: list[Report]) -> Answer:
        """Tell of what `user` did."""
        return await self._post_any("/v1/actions", {"user_id": user, "actions": actions})

    async def item(self, item: int) -> Report:
        """What the replicas know of an item, by slot; empty where none answers."""
        for url in self._learning():
            found = await self._report(f"{url}/v1/items/{item}")
            if found is not None:
                return dict(found["slots"])
        return {}

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    def _learning(self) -> list[str]:
        """The replicas, those that go on learning first."""
        return [url for _, url in sorted(zip(self.frozen, self.replicas, strict=True), key=lambda r: r[0])]

    async def _post_any(self, path: str, body: Report) -> Answer:
        answer = Answer(error="there is no replica")
        for url in self._learning():
            answer = await self._post(url + path, body)
            if answer.error is None:
                break
        return answer

    async def _post(self, url: str, body: Report, seconds: float = _SECONDS) -> Answer:
        try:
            answer = await self._http.post(url, json=body, timeout=seconds)
        except httpx.HTTPError as error:
            return Answer(error=f"{url} does not answer ({type(error).__name__})")
        if answer.is_success:
            return Answer(answer.json())
        return Answer(error=f"{url}: {answer.status_code} {answer.text[:300]}")

    async def _report(self, url: str) -> Report | None:
        try:
            answer = await self._http.get(url)
            answer.raise_for_status()
            report: Report = answer.json()
        except (httpx.HTTPError, ValueError):
            return None
        return report

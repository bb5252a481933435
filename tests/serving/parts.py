"""A replica's surroundings in memory: shards in this process, outboxes that keep, a clock that is set."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from models.dense import RANKER, dump_payload
from parameter_server.delta import Delta
from parameter_server.dense import DenseVersion
from parameter_server.errors import ShardUnavailable
from parameter_server.router import shard_of, split
from parameter_server.shard import Shard
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.config import Config
from schema.config_file import load_config
from schema.ids import feature_id
from schema.records import Action, ActionBatch, FeatureLog, Profile
from schema.stages import Traced, pack
from serving.api import create_app
from serving.intake import Intake, Stream
from serving.outbox import Outbox
from serving.replica import Replica, new_model
from serving.senders import Outboxes

CONFIG = load_config(
    Path(__file__).parents[2] / "configs" / "local.yaml",
    # so that a feed is in the order of its scores; exploration has tests of its own
    {"serving.explore_share": 0},
)
NOW = 1_700_000_000_000
TABLE = "embedding"


@dataclass
class Clock:
    """A wall clock in ms, and a monotonic one in seconds, that stand until moved."""

    ms: int = NOW

    def __call__(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    def move(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


@dataclass
class Shards:
    """A source of rounds: real shards, in this process, that can be pushed to, restarted and taken away."""

    config: Config = CONFIG
    shards: list[Shard] = field(default_factory=list)
    away: set[int] = field(default_factory=set)
    damage: Callable[[Delta], Delta] = lambda delta: delta
    asked: list[tuple[int, tuple[int, int] | None]] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        for index in range(len(self.config.parameter_server.shards)):
            self.shards.append(Shard(self.config.parameter_server, index))

    def restart(self, index: int) -> None:
        self.shards[index] = Shard(self.config.parameter_server, index)

    def push(
        self, step: int, ids: Sequence[int], value: float, completed: Sequence[int] = (), table: str = TABLE
    ) -> None:
        """One step of a trainer whose gradient is `value` everywhere; every shard is told of it."""
        wanted = np.array(ids, np.uint64)
        dim = next(t.dim for t in self.config.parameter_server.tables if t.name == table)
        for index, where in split(wanted, len(self.shards)):
            mine = wanted if where is None else wanted[where]
            pairs = {table: (mine, np.full((len(mine), dim), value, np.float32))}
            traces = pack(Traced(time - 2000, time, time + 4, time + 10) for time in completed)
            self.shards[index].push("trainer-0", step, pairs, 0, traces)

    def vector(self, wanted: int, table: str = TABLE) -> list[float]:
        """An id's vector, asked of the shard that holds it."""
        ids = np.array([wanted], np.uint64)
        (vectors,) = self.shards[int(shard_of(ids, len(self.shards))[0])].pull([(table, ids)])
        vector: list[float] = vectors[0].tolist()
        return vector

    def publish(self, version: int, step: int = 0, payload: bytes | None = None) -> None:
        if payload is None:
            torch.manual_seed(version)
            payload = dump_payload(new_model(self.config))
        self.shards[0].dense.put(RANKER, DenseVersion(version, step, payload))

    def delta(self, shard: int, since: tuple[int, int] | None) -> Delta:
        self.asked.append((shard, since))
        if shard in self.away:
            raise ShardUnavailable(f"shard {shard} is away")
        return self.damage(self.shards[shard].delta(since))

    def get_dense(self, name: str, newer_than: int) -> DenseVersion | None:
        return self.shards[0].dense.get(name, newer_than)

    def close(self) -> None:
        self.closed = True


@dataclass
class Kept:
    """A sender that keeps what it is sent."""

    records: list[Any] = field(default_factory=list)
    closed: bool = False

    def send(self, record: Any) -> None:
        self.records.append(record)

    def flush(self, timeout: float) -> None:
        pass

    def close(self, timeout: float) -> None:  # noqa: ARG002 - the interface
        self.closed = True


@dataclass
class Still:
    """Something that follows no topic; the test feeds the intake."""

    caught_up: bool = True
    saved_at: int = 0
    running: bool = False

    def start(self) -> None:
        self.running = True

    def stop(self, timeout: float) -> None:  # noqa: ARG002 - the interface
        self.running = False


class Stage:
    """A replica with its surroundings, and an HTTP client of its application."""

    def __init__(self, config: Config = CONFIG, capacity: int = 1000) -> None:
        self.clock = Clock()
        self.shards = Shards(config)
        self.logs, self.actions, self.profiles = Kept(), Kept(), Kept()
        self.follower = Still()
        boxes = Outboxes(
            Outbox("logs", lambda: self.logs, capacity, len),
            Outbox("actions", lambda: self.actions, capacity, lambda batch: len(batch.actions)),
            Outbox("profiles", lambda: self.profiles, capacity),
        )
        self.replica = Replica(
            config,
            0,
            source=self.shards,
            outboxes=boxes,
            follow=lambda _: self.follower,
            clock=self.clock,
        )
        self.app = create_app(self.replica)

    @property
    def intake(self) -> Intake:
        return self.replica.intake

    def learn(self, *records: Profile | ActionBatch | FeatureLog) -> None:
        """What the topics would tell; a second passes, so that the candidates follow."""
        self.clock.move(1)
        self.intake.take([message(record) for record in records], self.clock())

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content: Any = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://replica", timeout=10
            ) as client:
                data = json.dumps(body).encode() if content is None and body is not None else content
                sent = {"content-type": "application/json", **(headers or {})}
                return await client.request(method, path, content=data, headers=sent)

        return asyncio.run(ask())

    def post(self, path: str, body: object = None, content: Any = None) -> httpx.Response:
        return self.request("POST", path, body, content)

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)


def message(record: Profile | ActionBatch | FeatureLog) -> tuple[Stream, bytes]:
    match record:
        case Profile():
            return Stream.CATALOGUE, CATALOGUE.encode([record])
        case ActionBatch():
            return Stream.ACTIONS, USER_ACTIONS.encode([record])
        case FeatureLog():
            return Stream.LOGS, FEATURE_LOGS.encode([record])


def item(item_id: int, event_time: int = NOW) -> Profile:
    return Profile("item", item_id, event_time, {"author": (item_id % 7,)}, {"duration_seconds": 10.0})


def did(user: int, kind: str, *items: int, at: int = NOW) -> ActionBatch:
    return ActionBatch(user, tuple(Action("r", i, kind, at) for i in items))


def video_ids(items: Sequence[int]) -> list[int]:
    """The feature ids of the items' own slot."""
    slot = next(s.slot for s in CONFIG.features.slots if s.source == "item.id")
    return [feature_id(slot, i) for i in items]

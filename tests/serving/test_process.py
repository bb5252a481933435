"""A replica as a process, on real Kafka and real shards: what it follows, answers, logs, and outlives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import torch

from models.dense import RANKER, dump_payload
from parameter_server.client import ParameterClient
from runtime.broker import LocalBroker
from runtime.kafka import EnvelopeProducer, consumer, ensure_topics
from runtime.ports import free_port
from runtime.processes import die_with_parent, last_lines
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.config import Config, KafkaConfig, ReplicaConfig, ShardConfig
from schema.config_file import dump_config
from schema.errors import ConfigError
from schema.records import ActionBatch, FeatureLog
from serving import __main__ as command
from serving.replica import new_model
from tests.polling import wait_until
from tests.serving.parts import CONFIG, TABLE, item, video_ids

ITEMS = list(range(100, 130))


class Loop:
    """Two shards and a replica, each a process."""

    def __init__(self, folder: Path, kafka: KafkaConfig) -> None:
        shards = tuple(ShardConfig(port=free_port(), ops_port=free_port()) for _ in range(2))
        self.config: Config = msgspec.structs.replace(
            CONFIG,
            run_dir=str(folder),
            kafka=kafka,
            parameter_server=msgspec.structs.replace(CONFIG.parameter_server, shards=shards),
            serving=msgspec.structs.replace(CONFIG.serving, replicas=(ReplicaConfig(port=free_port()),)),
        )
        self._folder = folder
        self._file = folder / "config.yaml"
        dump_config(self.config, self._file)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.config.serving.replicas[0].port}", timeout=10
        )
        self.client = ParameterClient(self.config.parameter_server)

    def start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", arguments[0], str(self._file), *arguments[1:]],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),  # noqa: PLW1509 - it only makes one system call
            )

    def start_all(self) -> None:
        for index in range(2):
            self.start(f"shard-{index}", "parameter_server", "--shard", str(index))
        self.start("replica", "serving", "--replica", "0")
        wait_until(lambda: self.status("/readyz") == 200, 60)

    def status(self, path: str) -> int:
        assert self.processes["replica"].poll() is None, last_lines(self._folder / "replica.log")
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return 0

    def feed(self, user: int) -> dict[str, Any]:
        answer = self.http.post("/v1/feed", json={"user_id": user})
        assert answer.status_code == 200, answer.text
        feed: dict[str, Any] = answer.json()
        return feed

    def records(self, topic: str, codec: Any) -> list[Any]:
        reader = consumer(self.config.kafka, topic, consumer_timeout_ms=1500)
        try:
            return [record for message in reader for record in codec.decode(message.value)]
        finally:
            reader.close()

    def stop(self) -> None:
        self.client.close()
        self.http.close()
        for process in self.processes.values():
            process.kill()
            process.wait(10)


@pytest.fixture
def loop(tmp_path: Path, topics: KafkaConfig) -> Iterator[Loop]:
    loop = Loop(tmp_path, topics)
    yield loop
    loop.stop()


def test_a_replica_follows_answers_logs_and_outlives_its_shards(loop: Loop) -> None:
    _announce(loop, ITEMS)
    loop.start_all()
    _serves_by_popularity_and_logs(loop)
    _takes_up_parameters(loop)
    _takes_up_actions_and_items(loop)
    loop.processes["shard-1"].kill()
    before = loop.feed(7)["model"]
    wait_until(lambda: loop.http.get("/report/replica").json()["seconds_since_sync"] > 2, 10)
    assert loop.feed(7)["model"] == before
    last = loop.feed(9)["request_id"]
    loop.processes["replica"].send_signal(signal.SIGTERM)
    assert loop.processes["replica"].wait(20) == 0
    logged = loop.records(loop.config.kafka.topics.feature_logs.name, FEATURE_LOGS)
    assert last in {log.request_id for log in logged}


def _announce(loop: Loop, items: list[int]) -> None:
    topic = loop.config.kafka.topics.catalogue
    producer = EnvelopeProducer(loop.config.kafka, topic, CATALOGUE, max_records=1)
    for i in items:
        producer.send_to(0, item(i), item(i).key)
    producer.close(30)


def _serves_by_popularity_and_logs(loop: Loop) -> None:
    wait_until(lambda: loop.http.get("/report/replica").json()["candidates"], 10)
    feed = loop.feed(7)
    assert feed["model"]["dense"] == 0
    shown = {i["item_id"] for i in feed["items"]}
    assert len(shown) == 10
    assert shown <= set(ITEMS)
    slot = next(s.slot for s in CONFIG.features.slots if s.source == "history.watched")

    def watched() -> set[int]:
        """The history in the log of the last feed of the user: what was shown by the feeds before."""
        loop.feed(7)
        logs = loop.records(loop.config.kafka.topics.feature_logs.name, FEATURE_LOGS)
        last: FeatureLog = max((g for g in logs if g.user_id == 7), key=lambda g: g.event_time)
        ids = next(c for c in last.features.context if c.slot == slot).values()
        return {int(i) & 0xFFFFFFFF for i in ids}

    wait_until(lambda: shown <= watched(), 15)


def _takes_up_parameters(loop: Loop) -> None:
    ids = np.array(video_ids(ITEMS), np.uint64)
    torch.manual_seed(1)
    loop.client.put_dense(RANKER, 1, 1, dump_payload(new_model(loop.config)))
    loop.client.push("trainer-0", 1, {TABLE: (ids, np.ones((len(ids), 16), np.float32))}, 0, [])
    feed = wait_until(lambda: (f := loop.feed(7))["model"]["dense"] == 1 and f, 20)
    assert set(feed["items"][0]["scores"]) == {"click", "long_view", "like"}
    assert loop.http.post("/v1/sync").status_code == 200
    told = loop.http.get("/report/digests").json()
    digests = {(d["shard"], d["clock"], d["digest"]) for d in told if d["table"] == TABLE}
    expected = [(s, *loop.client.digest(s, TABLE)) for s in range(2)]
    assert digests == {(s, clock, f"{digest:016x}") for s, clock, digest in expected}
    assert loop.http.get("/report/replica").json()["rows"][TABLE] == len(ITEMS)


def _takes_up_actions_and_items(loop: Loop) -> None:
    request = loop.feed(5)
    action = {
        "request_id": request["request_id"],
        "item_id": 1000,
        "kind": "like",
        "event_time": request["event_time"],
    }
    assert loop.http.post("/v1/actions", json={"user_id": 5, "actions": [action]}).status_code == 202
    assert loop.http.post("/v1/items", json={"items": [{"item_id": 2000}]}).status_code == 202
    report = wait_until(
        lambda: (r := loop.http.get("/report/replica").json())["candidates"] == len(ITEMS) + 2 and r, 15
    )
    assert report["items"] == len(ITEMS) + 1
    (batch,) = loop.records(loop.config.kafka.topics.user_actions.name, USER_ACTIONS)
    assert isinstance(batch, ActionBatch)
    assert (batch.user_id, batch.actions[0].item_id) == (5, 1000)


def test_a_replica_waits_for_kafka_and_shards_and_stops_when_told(tmp_path: Path) -> None:
    loop = Loop(tmp_path, KafkaConfig(bootstrap=f"127.0.0.1:{free_port()}"))
    loop.start("replica", "serving", "--replica", "0")
    try:
        wait_until(lambda: loop.status("/healthz") == 200, 60)
        assert "snapshot" in loop.http.get("/readyz").text
        assert loop.http.post("/v1/feed", json={"user_id": 1}).status_code == 503
        loop.processes["replica"].send_signal(signal.SIGTERM)
        assert loop.processes["replica"].wait(20) == 0
    finally:
        loop.stop()


def test_a_restarted_replica_remembers_what_its_users_did(loop: Loop) -> None:
    """Killed, it comes back with the histories of before, and counts nothing twice."""
    _announce(loop, ITEMS)
    loop.start_all()
    wait_until(lambda: loop.http.get("/report/replica").json()["candidates"], 10)

    def liked() -> list[int]:
        loop.feed(5)
        logs = loop.records(loop.config.kafka.topics.feature_logs.name, FEATURE_LOGS)
        last: FeatureLog = max((g for g in logs if g.user_id == 5), key=lambda g: g.event_time)
        ids = next(c for c in last.features.context if c.slot == slot).values()
        return [int(i) & 0xFFFFFFFF for i in ids]

    slot = next(s.slot for s in CONFIG.features.slots if s.source == "history.liked")
    for liked_item in (101, 102):
        action = {"request_id": "r", "item_id": liked_item, "kind": "like", "event_time": 1}
        assert loop.http.post("/v1/actions", json={"user_id": 5, "actions": [action]}).status_code == 202
    wait_until(lambda: liked() == [101, 102], 15)
    saved = loop.http.get("/report/replica").json()
    wait_until(lambda: loop.http.get("/report/replica").json()["saved_at"] > saved["saved_at"] + 1000, 15)
    loop.processes["replica"].kill()
    loop.processes["replica"].wait(10)
    loop.start("replica", "serving", "--replica", "0")
    wait_until(lambda: loop.status("/readyz") == 200, 60)
    wait_until(lambda: loop.http.get("/report/replica").json()["candidates"], 10)
    assert liked() == [101, 102]


@pytest.mark.kafka
@pytest.mark.slow
def test_feeds_go_on_without_kafka_and_their_logs_follow(tmp_path: Path) -> None:
    own = KafkaConfig(local_port=free_port(), heap_mb=256)
    broker = LocalBroker(own, tmp_path / "kafka")
    broker.start(timeout=90)
    kafka = KafkaConfig(bootstrap=own.servers)
    ensure_topics(kafka)
    loop = Loop(tmp_path, kafka)
    try:
        _announce(loop, ITEMS)
        loop.start_all()
        wait_until(lambda: loop.http.get("/report/replica").json()["candidates"], 10)
        broker.stop(timeout=10)
        served = {loop.feed(user)["request_id"] for user in range(100)}
        broker = LocalBroker(own, tmp_path / "kafka")
        broker.start(timeout=90)
        served |= {loop.feed(user)["request_id"] for user in range(100)}

        def logged() -> list[str]:
            return [log.request_id for log in loop.records(kafka.topics.feature_logs.name, FEATURE_LOGS)]

        wait_until(lambda: served <= set(logged()), 120)
        assert len(logged()) == len(served)
    finally:
        loop.stop()
        broker.stop(timeout=10)


def test_a_background_thread_that_fails_ends_the_process(monkeypatch):
    told = []
    monkeypatch.setattr("threading.excepthook", threading.excepthook)
    monkeypatch.setattr("os.kill", lambda *call: told.append(call))
    failed = command._stop_when_a_thread_fails()

    def fail() -> None:
        raise RuntimeError("broken")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join(10)
    assert failed.is_set()
    assert told == [(os.getpid(), signal.SIGTERM)]


@pytest.mark.parametrize("index", [-1, 1])
def test_a_replica_that_is_not_configured_is_refused(tmp_path, monkeypatch, index):
    monkeypatch.setattr("runtime.logs.configure", lambda _: None)
    dump_config(CONFIG, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=f"--replica: {index}; legal is 0 to 0"):
        command.main(tmp_path / "config.yaml", index)


def test_an_address_that_is_taken_is_named(tmp_path):
    taken = command._bind(0, ReplicaConfig(port=free_port()))
    with (
        taken,
        pytest.raises(ConfigError, match=r"serving\.replicas\.1: 127\.0\.0\.1:\d+ cannot be listened on"),
    ):
        command._bind(1, ReplicaConfig(port=taken.getsockname()[1]))

"""The replay as a whole: what it sends where and in which order, and how its command fails."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from kafka import TopicPartition
from typer.testing import CliRunner

from runtime.kafka import consumer, end_offsets
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS, Codec
from schema.config import KafkaConfig, TopicConfig
from schema.config_file import dump_config
from schema.ids import partition_of
from schema.records import FeatureLog, Heartbeat, Profile
from simulation.events import events, profiles
from simulation.kuairand import read
from simulation.log import Log
from simulation.pacing import Pacer
from simulation.replay import main, replay
from simulation.topics import Topics
from tests.simulation.logs import replay_config, write

PARTITIONS = 4


@dataclass
class FakeProducer:
    """Notes what is sent, into a journal shared by all."""

    name: str
    journal: list[tuple[str, Any]]
    partitions: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)

    def send(self, user_id: int, record: Any) -> None:
        assert record.user_id == user_id
        self.journal.append((self.name, record))

    def send_to(self, partition: int, record: Any, key: bytes | None = None) -> None:
        self.partitions.append(partition)
        self.keys.append(key)
        self.journal.append((self.name, record))

    def flush(self, timeout: float) -> None:
        assert timeout > 0
        self.journal.append((self.name, "flush"))

    def close(self, timeout: float) -> None:
        assert timeout > 0
        self.journal.append((self.name, "close"))


@dataclass
class Sent:
    topics: Topics
    journal: list[tuple[str, Any]]


@pytest.fixture
def fakes() -> Sent:
    journal: list[tuple[str, Any]] = []
    logs, actions, catalogue = (FakeProducer(n, journal) for n in ("logs", "actions", "catalogue"))
    return Sent(Topics(logs, actions, catalogue, PARTITIONS, 3), journal)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return read(write(tmp_path / "kuairand"))


def test_the_catalogue_comes_first_then_the_records_in_order(fakes: Sent, log: Log) -> None:
    config = replay_config()
    summary = replay(log, config, fakes.topics, Pacer(None))
    known = [("catalogue", p) for p in profiles(log)]
    assert fakes.journal[: len(known) + 1] == [*known, ("catalogue", "flush")]
    records = [r for name, r in fakes.journal[len(known) + 1 :] if name != "catalogue"]
    expected = [e.record for e in events(log, config)]
    assert records[: len(expected)] == expected
    assert (summary.exposures, summary.requests) == (400, sum(isinstance(r, FeatureLog) for r in expected))
    assert summary.actions == sum(int(flags.sum()) for flags in log.outcomes.values())


def test_profiles_are_keyed_so_that_compaction_keeps_each(fakes: Sent, log: Log) -> None:
    fakes.topics.announce(profiles(log))
    catalogue = fakes.topics.catalogue
    assert isinstance(catalogue, FakeProducer)
    assert catalogue.keys == [p.key for p in profiles(log)]
    assert set(catalogue.partitions) == {0, 1, 2}


def test_it_ends_with_a_heartbeat_beyond_every_window(fakes: Sent, log: Log) -> None:
    config = replay_config()
    replay(log, config, fakes.topics, Pacer(None))
    last = max(e.time for e in events(log, config))
    beats = [(name, r) for name, r in fakes.journal if isinstance(r, Heartbeat)]
    assert [name for name, _ in beats] == ["logs"] * PARTITIONS + ["actions"] * PARTITIONS
    wait_ms = (config.streaming.window_seconds + config.streaming.disorder_seconds) * 1000
    assert {beat.event_time for _, beat in beats} == {last + wait_ms + 1_000}
    for producer in (fakes.topics.feature_logs, fakes.topics.user_actions):
        assert isinstance(producer, FakeProducer)
        assert producer.partitions == list(range(PARTITIONS))
    # both topics are with the broker before either is said to be over
    first = fakes.journal.index(beats[0])
    assert fakes.journal[first - 2 : first] == [("logs", "flush"), ("actions", "flush")]
    assert fakes.journal[-1] == ("actions", "flush")


def test_progress_counts_exposures(fakes: Sent, log: Log) -> None:
    reports: list[tuple[int, int]] = []
    replay(log, replay_config(), fakes.topics, Pacer(None), report=lambda *at: reports.append(at))
    assert reports[-1][0] == 400
    assert reports == sorted(reports)


def test_close_closes_all_three(fakes: Sent) -> None:
    fakes.topics.close()
    assert fakes.journal == [(name, "close") for name in ("logs", "actions", "catalogue")]


def _all(config: KafkaConfig, topic: TopicConfig, codec: Codec[Any]) -> list[tuple[int, Any]]:
    reader = consumer(config)
    try:
        ends = end_offsets(reader, topic.name)
        places = [TopicPartition(topic.name, p) for p in sorted(ends)]
        reader.assign(places)
        found: list[tuple[int, Any]] = []
        while any(reader.position(p) < ends[p.partition] for p in places):
            for messages in reader.poll(timeout_ms=500).values():
                found += [(m.partition, r) for m in messages for r in codec.decode(m.value)]
        return found
    finally:
        reader.close()


def test_on_kafka_each_users_records_are_in_order_in_one_partition(
    topics: KafkaConfig, log: Log, tmp_path: Path
) -> None:
    config = msgspec.structs.replace(replay_config(), kafka=topics)
    dump_config(config, tmp_path / "config.yaml")
    command = ["--path", str(tmp_path / "kuairand"), "--config", str(tmp_path / "config.yaml")]
    result = _invoke(*command, "--limit", "120")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    expected = [e.record for e in events(log.head(120), config)]
    assert said["exposures"] == 120
    for topic, codec in (
        (topics.topics.feature_logs, FEATURE_LOGS),
        (topics.topics.user_actions, USER_ACTIONS),
    ):
        found = _all(topics, topic, codec)
        for partition in range(topic.partitions):
            *records, last = [r for p, r in found if p == partition]
            assert isinstance(last, Heartbeat)
            here = [
                e
                for e in expected
                if partition_of(e.user_id, topic.partitions) == partition
                and isinstance(e, FeatureLog) == (codec is FEATURE_LOGS)
            ]
            assert records == here
    known: list[Profile] = [p for _, p in _all(topics, topics.topics.catalogue, CATALOGUE)]
    assert known == list(profiles(log))


def _invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(arguments))


BAD = {
    "a wrong speed": (["--speed", "fast"], 2, "'fast'; legal is max, or a number above 0"),
    "an unknown data set": (["--dataset", "other"], 2, "kuairand"),
    "a limit of 0": (["--limit", "0"], 2, "greater than or equal to 1"),
    "a missing folder": (["--path", "nowhere"], 1, "nowhere is not a folder"),
    "a missing configuration": (["--config", "none.yaml"], 1, "none.yaml: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_before_anything_is_sent(case: str, tmp_path: Path) -> None:
    arguments, code, message = BAD[case]
    write(tmp_path / "log")
    dump_config(replay_config(), tmp_path / "c.yaml")
    result = _invoke("--path", str(tmp_path / "log"), "--config", str(tmp_path / "c.yaml"), *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())


def test_the_help_states_the_request_rule() -> None:
    text = " ".join(_invoke("--help").output.split())
    assert "each within 60 s of the one before it, at most 10 of them and no video twice" in text

"""Finding one request's feature log in its topic, on real Kafka."""

from __future__ import annotations

from contextlib import closing

import pytest

from runtime.errors import BrokerUnavailable
from runtime.kafka import EnvelopeProducer, producer
from runtime.ports import free_port
from schema.codec import FEATURE_LOGS
from schema.config import KafkaConfig
from schema.ids import partition_of
from schema.records import FeatureLog, Features, ModelVersion, column
from serving import recall as module
from serving.recall import recall

USERS = 40


def _log(request: str, user: int) -> FeatureLog:
    return FeatureLog(request, user, 5, 0, ModelVersion(), column([user], "<i8"), b"\0\0", Features())


@pytest.fixture
def logged(topics: KafkaConfig, monkeypatch: pytest.MonkeyPatch) -> KafkaConfig:
    """One request of each user, a message each, of which two are read at a time."""
    monkeypatch.setattr(module, "_STRIDE", 2)
    sender = EnvelopeProducer(topics, topics.topics.feature_logs, FEATURE_LOGS, max_records=1)
    for user in range(USERS):
        sender.send(user, _log(f"request-{user}", user))
    sender.close(20)
    return topics


@pytest.mark.parametrize("user", [0, USERS // 2, USERS - 1])
def test_a_log_is_found_wherever_it_lies(logged: KafkaConfig, user: int) -> None:
    assert recall(logged, f"request-{user}") == _log(f"request-{user}", user)
    assert recall(logged, f"request-{user}", user) == _log(f"request-{user}", user)


def test_a_user_names_the_partition_that_is_searched(logged: KafkaConfig) -> None:
    partitions = logged.topics.feature_logs.partitions
    other = next(u for u in range(USERS) if partition_of(u, partitions) != partition_of(0, partitions))
    assert recall(logged, "request-0", other) is None


def test_what_was_never_logged_is_not_found(logged: KafkaConfig) -> None:
    assert recall(logged, "request-of-nobody") is None
    assert recall(logged, "request-") is None, "a part of a name is not the name"


def test_no_time_finds_nothing(logged: KafkaConfig) -> None:
    assert recall(logged, "request-0", seconds=0) is None


def test_a_damaged_message_is_passed_over(logged: KafkaConfig) -> None:
    """Newer than the log, in its partition, and it names the request: read first."""
    topic = logged.topics.feature_logs
    damaged = FEATURE_LOGS.encode([_log("request-3", 3)])[:-1]
    with closing(producer(logged)) as sender:
        sender.send(topic.name, value=damaged, partition=partition_of(3, topic.partitions)).get(timeout=20)
    assert recall(logged, "request-3") == _log("request-3", 3)


def test_a_broker_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BROKER_SECONDS", 0.2)
    with pytest.raises(BrokerUnavailable):
        recall(KafkaConfig(bootstrap=f"127.0.0.1:{free_port()}"), "request-0")

"""The demo's own count of what went through Kafka."""

from __future__ import annotations

import pytest

from demo.audit import count_exposures, dead_letters
from runtime.kafka import EnvelopeProducer
from schema.codec import DEAD_LETTERS, FEATURE_LOGS
from schema.config import KafkaConfig
from schema.records import DeadLetter, FeatureLog, Features, Heartbeat, ModelVersion, column


def log(name: str, user: int, items: int) -> FeatureLog:
    ids, positions = column(range(items), "<i8"), column(range(items), "<u2")
    return FeatureLog(name, user, 5, 0, ModelVersion(), ids, positions, Features())


@pytest.mark.kafka
def test_each_request_counts_once(topics: KafkaConfig) -> None:
    producer = EnvelopeProducer(topics, topics.topics.feature_logs, FEATURE_LOGS)
    for user in range(20):
        producer.send(user, log(f"r{user}", user, 3))
    producer.send(4, log("r4", 4, 3))
    producer.send_to(0, Heartbeat(9))
    producer.close(10)
    assert count_exposures(topics) == 60


@pytest.mark.kafka
def test_dead_letters_are_counted_by_reason(topics: KafkaConfig) -> None:
    assert dead_letters(topics) == {}
    producer = EnvelopeProducer(topics, topics.topics.dead_letters, DEAD_LETTERS)
    for reason in ("checksum", "schema", "schema"):
        producer.send_to(0, DeadLetter("t", 0, 0, 0, reason, "", b""))
    producer.close(10)
    assert dead_letters(topics) == {"checksum": 1, "schema": 2}

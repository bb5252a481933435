"""The project's topics on a broker: made where missing, checked where there."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from kafka.errors import KafkaError, TopicAlreadyExistsError

from runtime.errors import BrokerUnavailable, TopicMismatch
from runtime.kafka.clients import MAX_MESSAGE_BYTES, admin
from schema.config import KafkaConfig, TopicConfig

_log = logging.getLogger(__name__)

_WAIT_SECONDS: Final = 20.0


def ensure_topics(config: KafkaConfig, seconds: float = _WAIT_SECONDS) -> None:
    """Create the configured topics that are missing, and check the partition counts of the others.

    Raises:
        TopicMismatch: a topic exists with another partition count.
        BrokerUnavailable: the broker did not answer, or not make a topic, within `seconds`.
    """
    deadline = time.monotonic() + seconds
    wanted = _topics(config)
    client = admin(config, seconds)
    try:
        counts = _partition_counts(client, [topic.name for topic in wanted])
        missing = [topic for topic in wanted if topic.name not in counts]
        if missing:
            _create(client, config, missing)
            names = [topic.name for topic in missing]
            client.wait_for_topics(names, timeout_ms=max(1.0, (deadline - time.monotonic()) * 1000))
            counts |= _partition_counts(client, names)
    except KafkaError as error:
        raise BrokerUnavailable(f"the topics could not be made at {config.servers}: {error}") from error
    finally:
        client.close()
    for topic in wanted:
        _check(topic, counts[topic.name])


def _topics(config: KafkaConfig) -> list[TopicConfig]:
    topics = config.topics
    return [
        topics.feature_logs,
        topics.user_actions,
        topics.training_samples,
        topics.dead_letters,
        topics.catalogue,
    ]


def _create(client: Any, config: KafkaConfig, topics: list[TopicConfig]) -> None:
    timed = config.topics
    # when Kafka had a message is what freshness is measured from, so the broker's clock stamps these
    appended = {timed.feature_logs.name, timed.user_actions.name, timed.training_samples.name}
    for topic in topics:
        settings = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
        if topic.name in appended:
            settings["message.timestamp.type"] = "LogAppendTime"
        if topic.compact:
            settings["cleanup.policy"] = "compact"
        request = {
            "num_partitions": topic.partitions,
            "replication_factor": config.replication,
            "configs": settings,
        }
        try:
            client.create_topics({topic.name: request})
        except TopicAlreadyExistsError:
            _log.info("topic %s was made by another process meanwhile", topic.name)
        else:
            _log.info("made topic %s with %d partitions", topic.name, topic.partitions)


def _partition_counts(client: Any, names: list[str]) -> dict[str, int]:
    described = client.describe_topics(names)
    return {topic["name"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}


def _check(topic: TopicConfig, partitions: int) -> None:
    if partitions != topic.partitions:
        raise TopicMismatch(
            f"topic {topic.name!r}: it exists with {partitions} partitions and the configuration says "
            f"{topic.partitions}; legal is {partitions} in kafka.topics, or another topic name"
        )

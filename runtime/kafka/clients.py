"""Clients of the configured broker, with the settings that the project's guarantees rest on."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from runtime.errors import BrokerUnavailable
from schema.config import KafkaConfig

_log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 8 << 20
"""The largest message that a topic of ours takes; envelopes are far smaller unless one record is not."""

_REQUEST_MS: Final = 15_000
_RECONNECT_MAX_MS: Final = 1_000


def producer(config: KafkaConfig, **settings: Any) -> Any:
    """A KafkaProducer that waits for every replica and never writes a message twice or out of order.

    Args:
        config: the broker.
        settings: further settings of the library, which win over the defaults here.
    """
    defaults = {
        "bootstrap_servers": config.servers.split(","),
        "acks": "all",
        "enable_idempotence": True,
        "max_request_size": MAX_MESSAGE_BYTES,
        "allow_auto_create_topics": False,
        "request_timeout_ms": _REQUEST_MS,
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
    }
    return KafkaProducer(**(defaults | settings))


def consumer(config: KafkaConfig, *topics: str, group: str | None = None, **settings: Any) -> Any:
    """A KafkaConsumer that starts at the earliest message and commits only when told to.

    Args:
        config: the broker.
        topics: what to subscribe to, with `group`; without, call `assign` on the result.
        group: the consumer group, None for none.
        settings: further settings of the library, which win over the defaults here.
    """
    session_ms = int(config.session_timeout_seconds * 1000)
    defaults = {
        "bootstrap_servers": config.servers.split(","),
        "group_id": group,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "max_partition_fetch_bytes": MAX_MESSAGE_BYTES,
        "session_timeout_ms": session_ms,
        "heartbeat_interval_ms": session_ms // 4,
        "allow_auto_create_topics": False,
        "request_timeout_ms": max(_REQUEST_MS, 2 * session_ms),
        "reconnect_backoff_max_ms": _RECONNECT_MAX_MS,
    }
    return KafkaConsumer(*topics, **(defaults | settings))


def admin(config: KafkaConfig, seconds: float = 10.0) -> Any:
    """A KafkaAdminClient, once the broker answers.

    Raises:
        BrokerUnavailable: it did not within `seconds`.
    """
    try:
        return KafkaAdminClient(
            bootstrap_servers=config.servers.split(","),
            bootstrap_timeout_ms=max(1, int(seconds * 1000)),
            request_timeout_ms=_REQUEST_MS,
            reconnect_backoff_max_ms=_RECONNECT_MAX_MS,
        )
    except KafkaError as error:
        raise _unavailable(config, seconds, error) from error


def wait_for_broker(config: KafkaConfig, seconds: float) -> None:
    """Return once the broker answers requests.

    Raises:
        BrokerUnavailable: it did not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not _listens(config):
        if time.monotonic() > deadline:
            raise _unavailable(config, seconds, "nothing listens there")
        time.sleep(0.05)
    admin(config, max(1.0, deadline - time.monotonic())).close()


def end_offsets(reader: Any, topic: str, seconds: float = 10.0) -> dict[int, int]:
    """The offset after the last message of each partition of `topic`, asked through a consumer.

    Raises:
        BrokerUnavailable: the broker did not answer within `seconds`, or has no such topic.
    """
    try:
        partitions = reader.partitions_for_topic(topic)
        if not partitions:
            raise BrokerUnavailable(f"topic {topic!r}: the broker has no topic of that name")
        ends = reader.end_offsets(
            [TopicPartition(topic, p) for p in partitions], timeout_ms=int(seconds * 1000)
        )
    except KafkaError as error:
        raise BrokerUnavailable(f"topic {topic!r}: no end offsets within {seconds:g} s ({error})") from error
    return {place.partition: int(end) for place, end in ends.items()}


def _listens(config: KafkaConfig) -> bool:
    return any(_connects(server) for server in config.servers.split(","))


def _connects(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


def _unavailable(config: KafkaConfig, seconds: float, cause: object) -> BrokerUnavailable:
    key = "kafka.bootstrap" if config.bootstrap else "kafka.local_port"
    return BrokerUnavailable(
        f"{key}: no Kafka broker answers at {config.servers} within {seconds:g} s ({cause}); "
        "start it, or set kafka.bootstrap to one that runs"
    )

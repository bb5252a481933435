"""The thin Kafka adapter of a replay: its producers to feature-logs, user-actions and catalogue."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runtime.kafka import EnvelopeProducer, ensure_topics
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.config import Config
from schema.ids import murmur2
from schema.records import ActionBatch, FeatureLog, Heartbeat, Profile

FLUSH_SECONDS: Final = 120.0


class Producer(Protocol):
    """What a replay needs of `runtime.kafka.EnvelopeProducer`."""

    def send(self, user_id: int, record: Any) -> None:
        """Send to the user's partition."""

    def send_to(self, partition: int, record: Any, key: bytes | None = None) -> None:
        """Send to one partition."""

    def flush(self, timeout: float) -> None:
        """Return once all is acknowledged."""

    def close(self, timeout: float) -> None:
        """Flush and close."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The three producers, and how many partitions each topic has."""

    feature_logs: Producer
    user_actions: Producer
    catalogue: Producer
    partitions: int
    catalogue_partitions: int

    @classmethod
    def connect(cls, config: Config) -> Topics:
        """Producers for the configured broker; missing topics are made.

        Raises:
            PlumbingError: no broker answers, or a topic has another partition count than the configuration.
        """
        ensure_topics(config.kafka)
        topics = config.kafka.topics
        return cls(
            EnvelopeProducer(config.kafka, topics.feature_logs, FEATURE_LOGS),
            EnvelopeProducer(config.kafka, topics.user_actions, USER_ACTIONS),
            # compaction keeps the newest message of a key, so a message holds one profile
            EnvelopeProducer(config.kafka, topics.catalogue, CATALOGUE, max_records=1),
            topics.feature_logs.partitions,
            topics.catalogue.partitions,
        )

    def announce(self, profiles: Iterable[Profile]) -> None:
        """Put `profiles` into the catalogue; returns when the broker has them."""
        for profile in profiles:
            partition = (murmur2(profile.key) & 0x7FFFFFFF) % self.catalogue_partitions
            self.catalogue.send_to(partition, profile, profile.key)
        self.catalogue.flush(FLUSH_SECONDS)

    def send(self, record: FeatureLog | ActionBatch) -> None:
        """Send one record to its topic, in its user's partition."""
        topic = self.feature_logs if isinstance(record, FeatureLog) else self.user_actions
        topic.send(record.user_id, record)

    def finish(self, event_time: int) -> None:
        """Tell every partition of both topics that nothing older than `event_time` (ms) will follow."""
        both = (self.feature_logs, self.user_actions)
        for topic in both:
            topic.flush(FLUSH_SECONDS)
        for topic in both:
            for partition in range(self.partitions):
                topic.send_to(partition, Heartbeat(event_time))
            topic.flush(FLUSH_SECONDS)

    def close(self) -> None:
        """Close the producers; the three share one deadline."""
        deadline = time.monotonic() + FLUSH_SECONDS
        for topic in (self.feature_logs, self.user_actions, self.catalogue):
            topic.close(max(1.0, deadline - time.monotonic()))

"""The outboxes of the three topics that a replica writes, and how their records are keyed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from runtime.kafka import EnvelopeProducer
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS, Codec
from schema.config import KafkaConfig, TopicConfig
from schema.ids import murmur2
from schema.records import ActionBatch, FeatureLog, Profile
from serving.outbox import Outbox
from serving.spool import Spool

# some 100 MB each, at about 300 bytes an impression, 100 an action and 1 KB a profile
_IMPRESSIONS: Final = 300_000
_ACTIONS: Final = 1_000_000
_PROFILES: Final = 100_000

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outboxes:
    """Where served requests, actions and profiles leave the replica."""

    feature_logs: Outbox[FeatureLog]
    actions: Outbox[ActionBatch]
    profiles: Outbox[Profile]

    def by_name(self) -> dict[str, Outbox[Any]]:
        """The three, by what they hold."""
        return {"feature_logs": self.feature_logs, "actions": self.actions, "profiles": self.profiles}

    def start(self) -> None:
        """Begin to empty all three."""
        for box in self.by_name().values():
            box.start()

    def stop(self, timeout: float) -> None:
        """Deliver what waits in them; they share `timeout` seconds."""
        deadline = time.monotonic() + timeout
        # first all are told: what one is at when its turn comes may take seconds
        for box in self.by_name().values():
            box.leave(timeout)
        for box in self.by_name().values():
            box.stop(max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True, slots=True)
class _Sender(Generic[R]):
    producer: EnvelopeProducer[Any]
    deliver: Callable[[R], None]

    def send(self, record: R) -> None:
        self.deliver(record)

    def flush(self, timeout: float) -> None:
        self.producer.flush(timeout)

    def close(self, timeout: float) -> None:
        self.producer.close(timeout)


def kafka_outboxes(config: KafkaConfig, spools: Path, spool_mb: int) -> Outboxes:
    """The outboxes that end in the configured broker, each with a spool of at most `spool_mb` in `spools`."""
    topics = config.topics

    def logs() -> _Sender[FeatureLog]:
        producer = EnvelopeProducer(config, topics.feature_logs, FEATURE_LOGS)
        return _Sender(producer, lambda log: producer.send(log.user_id, log))

    def actions() -> _Sender[ActionBatch]:
        producer = EnvelopeProducer(config, topics.user_actions, USER_ACTIONS)
        return _Sender(producer, lambda batch: producer.send(batch.user_id, batch))

    def profiles() -> _Sender[Profile]:
        # compaction keeps the last message of a key, so a message holds one profile
        producer = EnvelopeProducer(config, topics.catalogue, CATALOGUE, max_records=1)
        partitions = topics.catalogue.partitions
        return _Sender(
            producer, lambda profile: producer.send_to(_partition(profile, partitions), profile, profile.key)
        )

    def spool(topic: TopicConfig, codec: Codec[Any]) -> Spool[Any]:
        return Spool(spools / topic.name, codec, spool_mb << 20)

    return Outboxes(
        Outbox(topics.feature_logs.name, logs, _IMPRESSIONS, len, spool(topics.feature_logs, FEATURE_LOGS)),
        Outbox(
            topics.user_actions.name,
            actions,
            _ACTIONS,
            lambda batch: len(batch.actions),
            spool(topics.user_actions, USER_ACTIONS),
        ),
        Outbox(topics.catalogue.name, profiles, _PROFILES, spool=spool(topics.catalogue, CATALOGUE)),
    )


def _partition(profile: Profile, partitions: int) -> int:
    """Kafka's own default for the key, so that foreign producers replace the same profile."""
    return (murmur2(profile.key) & 0x7FFFFFFF) % partitions

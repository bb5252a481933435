"""The broker and its topics."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schema.config.values import Name, Port, Positive, Section


class TopicConfig(Section, frozen=True, kw_only=True):
    """One Kafka topic."""

    name: Name
    partitions: Positive = 4
    compact: bool = False


class TopicsConfig(Section, frozen=True, kw_only=True):
    """The topics. `feature_logs`, `user_actions` and `training_samples` need equal partition counts."""

    feature_logs: TopicConfig = TopicConfig(name="feature-logs")
    user_actions: TopicConfig = TopicConfig(name="user-actions")
    training_samples: TopicConfig = TopicConfig(name="training-samples")
    dead_letters: TopicConfig = TopicConfig(name="dead-letters", partitions=1)
    catalogue: TopicConfig = TopicConfig(name="catalogue", partitions=1, compact=True)


class KafkaConfig(Section, frozen=True, kw_only=True):
    """The broker. With `bootstrap` unset the project starts one of its own on `local_port`."""

    bootstrap: str | None = None
    local_port: Port = 19092
    heap_mb: Annotated[int, Meta(ge=128)] = 512
    replication: Positive = 1
    session_timeout_seconds: Annotated[float, Meta(ge=6)] = 6.0
    topics: TopicsConfig = TopicsConfig()

    @property
    def servers(self) -> str:
        """The bootstrap servers to connect to, as "host:port[,host:port…]"."""
        return self.bootstrap or f"127.0.0.1:{self.local_port}"

"""The replicas, and how often they take what was learned."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schema.config.values import Port, Positive, PositiveSeconds, Section


class SyncConfig(Section, frozen=True, kw_only=True):
    """How often a replica pulls rows, and the trainer publishes and a replica pulls dense parameters."""

    sparse_seconds: Annotated[float, Meta(ge=1)] = 60.0
    dense_seconds: Annotated[float, Meta(ge=1)] = 60.0


class ReplicaConfig(Section, frozen=True, kw_only=True):
    """Where one serving replica listens.

    With `freeze_after_seconds` it stops taking rounds that long after its first trained model: the control
    arm of a comparison, which `simulation` gives half of its users.
    """

    host: str = "127.0.0.1"
    port: Port
    freeze_after_seconds: PositiveSeconds | None = None


class ServingConfig(Section, frozen=True, kw_only=True):
    """The replicas, and how a feed is made: `candidates` items ranked to `feed_size`.

    Of the candidates `recent_share` are the newest items. The others are the most popular ones, or, where
    retrieval has learned, `popular_share` of all the most popular and the rest retrieved.
    Of all positions, `explore_share` show an item at random. With an `api_key`, /v1 requests need it in the
    header X-API-Key; at most `max_requests` are worked on at once, and further ones are told to come again.
    Per topic, `spool_mb` may wait on disk while Kafka is away.
    """

    replicas: Annotated[tuple[ReplicaConfig, ...], Meta(min_length=1)]
    candidates: Positive = 100
    recent_share: Annotated[float, Meta(ge=0, le=1)] = 0.2
    popular_share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    feed_size: Annotated[int, Meta(ge=1, le=1000)] = 10
    popularity_half_life_seconds: PositiveSeconds = 3600.0
    torch_threads: Positive = 1
    explore_share: Annotated[float, Meta(ge=0, le=1)] = 0.015
    max_requests: Positive = 64
    spool_mb: Positive = 256
    api_key: Annotated[str, Meta(min_length=8, max_length=200)] | None = None

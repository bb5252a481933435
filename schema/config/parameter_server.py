"""The shards."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from schema.config.tables import TableConfig
from schema.config.values import Port, Positive, PositiveSeconds, Section


class ShardConfig(Section, frozen=True, kw_only=True):
    """Where one shard listens: Flight on `port`, health and metrics on `ops_port`."""

    host: str = "127.0.0.1"
    port: Port
    ops_port: Port


class SecurityConfig(Section, frozen=True, kw_only=True):
    """Files (PEM) of mutual TLS between shards and clients, all three or none, and of a token they share."""

    token_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    ca_file: str | None = None


ReplicaRows = Literal["fp32", "fp16", "int8"]
"""How rows travel to replicas and lie in them: as they are, halved, or in bytes with a scale a row."""


class ParameterServerConfig(Section, frozen=True, kw_only=True):
    """The shards, in order: a key's virtual bucket decides which one holds it.

    A shard checkpoints every `checkpoint_seconds` and keeps the last `checkpoints_kept`. Beyond
    `most_requests` at a time it answers that it is busy, and clients try again.
    """

    shards: Annotated[tuple[ShardConfig, ...], Meta(min_length=1, max_length=1024)]
    tables: Annotated[tuple[TableConfig, ...], Meta(min_length=1)] = (TableConfig(name="embedding"),)
    tombstones_kept: Positive = 1_000_000
    chunk_rows: Positive = 65536
    replica_rows: ReplicaRows = "fp32"
    checkpoint_seconds: PositiveSeconds = 10.0
    checkpoints_kept: Positive = 2
    max_message_mb: Positive = 64
    most_requests: Positive = 64
    request_seconds: PositiveSeconds = 10.0
    retry_seconds: PositiveSeconds = 120.0
    security: SecurityConfig = SecurityConfig()

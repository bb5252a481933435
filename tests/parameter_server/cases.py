"""What the tests of this folder build from: small configurations, ids, gradients and random histories."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from parameter_server import messages, wire
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, ShardConfig, TableConfig
from schema.records import F32, U64

SMALL = TableConfig(name="embedding", dim=4, capacity=16, init_scale=0.5, seed=7)
WIDE = TableConfig(name="wide", dim=9, capacity=16, init_scale=0.1, seed=8)


def config(shards: int = 1, **changes: object) -> ParameterServerConfig:
    places = tuple(ShardConfig(port=1 + i, ops_port=1000 + i) for i in range(shards))
    settings = {"shards": places, "tables": (SMALL, WIDE), "chunk_rows": 5, "retry_seconds": 20.0}
    return ParameterServerConfig(**{**settings, **changes})  # type: ignore[arg-type]


def u64(values: Iterable[int]) -> U64:
    return np.array(list(values), np.uint64)


def gradients(rng: np.random.Generator, rows: int, dim: int = SMALL.dim) -> F32:
    return rng.normal(size=(rows, dim)).astype(np.float32)


def block(table: str, ids: int, values: int, value: float = 1.0) -> wire.Block:
    return wire.Block(table, u64(range(ids)), np.full(values, value, np.float32))


def push_header(
    *blocks: wire.Block, shard: int = 0, shards: int = 1, step: int = 9, completed_at: bytes = b""
) -> bytes:
    extents = wire.encode_blocks(blocks).extents
    return messages.encode(messages.Push(shard, shards, "b", step, 0, completed_at, extents))


def random_round(shard: Shard, rng: np.random.Generator, step: int, ids: int = 60) -> None:
    """A push to both tables and, now and then, a removal."""
    chosen = rng.integers(0, ids, rng.integers(0, 20), dtype=np.uint64)
    pairs = {
        "embedding": (chosen, gradients(rng, len(chosen))),
        "wide": (chosen[:5], gradients(rng, len(chosen[:5]), WIDE.dim)),
    }
    shard.push("trainer", step, pairs, event_time=step, completed_at=[step])
    if rng.random() < 0.4:
        shard.evict("embedding", rng.integers(0, ids, 6, dtype=np.uint64))

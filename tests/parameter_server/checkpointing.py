"""A process that trains a shard and checkpoints it without end, for tests that kill it: FOLDER is its run dir."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from parameter_server.dense import DenseVersion
from parameter_server.restore import open_shard
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig
from tests.parameter_server.cases import SMALL, WIDE, config, gradients

IDS = 6000
BATCH = 1500
STEPS_A_CHECKPOINT = 3


def settings() -> ParameterServerConfig:
    return config(checkpoints_kept=3)


def train(shard: Shard, step: int) -> None:
    """A function of the shard's state and the step alone."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, IDS, BATCH, dtype=np.uint64)
    pairs = {
        "embedding": (ids, gradients(rng, BATCH, SMALL.dim)),
        "wide": (ids[:200], gradients(rng, 200, WIDE.dim)),
    }
    shard.push("a", step, pairs, step)
    shard.evict("embedding", rng.integers(0, IDS, 100, dtype=np.uint64))
    shard.dense.put("model", DenseVersion(step, step, rng.bytes(2000)))


def last_step(shard: Shard) -> int:
    return shard.state().steps.get("a", -1)


def main() -> None:
    opened = open_shard(settings(), 0, Path(sys.argv[1]))
    step = last_step(opened.shard)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for _ in range(STEPS_A_CHECKPOINT):
            step += 1
            train(opened.shard, step)
        opened.checkpoints.save(opened.shard)


if __name__ == "__main__":
    main()

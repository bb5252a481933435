"""A trainer, the shards of its parameter server and serving copies, in one process and in step with the data.

The step, the tables and the replicas are those of the roles; only Kafka and the network are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch

from experiments.data import Stream
from models.dense import dump_payload, load_payload
from models.mmoe import MMoE
from parameter_server.image import ShardImage
from parameter_server.replica import ReplicaTables
from parameter_server.router import split
from parameter_server.shard import Shard
from schema.config import Config
from schema.config_file import parse_config
from schema.ids import VALUE_BITS
from schema.records import F32, I64, U64, Features, IdColumn, column
from trainer.pieces import Piece, PieceRows
from trainer.step import Learner, Prepared

DIM: Final = 16
_PART_ROWS: Final = 65_536
_TRAINER: Final = "trainer-0"


def configured(stream: Stream, shards: int, seed: int) -> Config:
    """A small ranker over the slots of `stream`, with everything that is drawn drawn from `seed`."""
    rate = stream.labels.mean(axis=0).clip(0.01, 0.99).tolist()
    return parse_config(
        {
            "features": {
                "slots": [
                    {"name": slot, "slot": number, "source": f"item.{slot}"}
                    for number, slot in enumerate(stream.ids, 1)
                ]
            },
            "tasks": [
                {"name": name, "actions": [name], "prior": prior}
                for name, prior in zip(stream.tasks, rate, strict=True)
            ],
            "parameter_server": {
                "shards": [{"port": 1 + 2 * i, "ops_port": 2 + 2 * i} for i in range(shards)],
                "tables": [{"name": "embedding", "dim": DIM, "seed": seed}],
            },
            "trainer": {"seed": seed},
            "serving": {"replicas": [{"port": 60_000}]},
        }
    )


class Tables:
    """All shards, as the trainer's client sees them.

    Args:
        config: names them.
    """

    def __init__(self, config: Config) -> None:
        count = len(config.parameter_server.shards)
        self.shards = [Shard(config.parameter_server, i) for i in range(count)]

    def pull(self, table: str, ids: U64) -> F32:
        """See ParameterClient.pull."""
        out = np.empty((len(ids), DIM), np.float32)
        for shard, where in split(ids, len(self.shards)):
            at = slice(None) if where is None else where
            out[at] = self.shards[shard].pull([(table, ids[at])])[0]
        return out

    def push(self, step: int, gradients: Mapping[str, tuple[U64, F32]], event_time: int) -> None:
        """See ParameterClient.push."""
        for table, (ids, values) in gradients.items():
            for shard, where in split(ids, len(self.shards)):
                at = slice(None) if where is None else where
                self.shards[shard].push(_TRAINER, step, {table: (ids[at], values[at])}, event_time)


def image_of(shard: Shard) -> ShardImage:
    """What a checkpoint of `shard` keeps, in memory."""
    saving = shard.saving(None, _PART_ROWS)
    parts = list(saving)
    return ShardImage(saving.marks, parts, saving.kept)


class World:
    """Trains on a stream as it goes.

    Args:
        stream: the rows.
        shards: how many shards hold the tables.
        seed: of every draw.
    """

    def __init__(self, stream: Stream, shards: int = 1, seed: int = 0) -> None:
        torch.set_num_threads(1)
        self.config = configured(stream, shards, seed)
        self.tables = Tables(self.config)
        self.learner = Learner(self.config, self.tables)
        self.stream = stream
        self._steps = 0

    def train(self, rows: slice) -> F32:
        """Learn from `rows`; the predictions (n, T) from before."""
        self._steps += 1
        fetched = self.learner.fetch(PieceRows([self.piece(rows)]))
        computed = self.learner.compute(fetched, self._steps)
        if computed.gradients is None:
            raise ArithmeticError(f"step {self._steps}: its gradients are not finite")
        newest = int(self.stream.times[rows][-1])
        self.tables.push(self._steps, computed.gradients, newest)
        self.learner.apply(rows.stop - rows.start)
        return computed.predictions

    def prepared(self, rows: slice) -> Prepared:
        """`rows` as tensors, to be scored."""
        return self.learner.prepare(PieceRows([self.piece(rows)]))

    def piece(self, rows: slice) -> Piece:
        """`rows` as one block to train on."""
        stream = self.stream
        n, time = rows.stop - rows.start, int(stream.times[rows.start])
        labels = stream.labels[rows]
        items = tuple(
            IdColumn(number, _ids(number, values[rows]))
            for number, values in enumerate(stream.ids.values(), 1)
        )
        missing = column(np.full(n, 0xFFFF), "<u2")
        listed = column(stream.ids["item"][rows], "<i8")
        known = bytes([1]) * labels.size
        return Piece(
            0,
            0,
            time,
            time,
            listed,
            missing,
            Features(items=items),
            column(labels, "<f4"),
            known,
            bytes(4 * n),
        )


def _ids(slot: int, values: I64) -> bytes:
    return column(values.astype(np.uint64) + np.uint64(slot << VALUE_BITS), "<u8")


class Copy:
    """A serving copy of a world's parameters: it knows what its last `sync` brought."""

    def __init__(self, world: World) -> None:
        config = world.config
        self._world = world
        self._rows = ReplicaTables(config.parameter_server)
        self._model = MMoE(config.model, config.features, len(config.tasks), DIM)
        self.sync()

    def sync(self) -> None:
        """Take what has changed since the last one, and the dense parameters as they are."""
        shards = self._world.tables.shards
        deltas = [shard.delta(self._rows.position(i)) for i, shard in enumerate(shards)]
        self._rows.apply(deltas)
        load_payload(self._model, dump_payload(self._world.learner.model))

    def score(self, prepared: Prepared) -> F32:
        """Predictions (n, T)."""
        batch = prepared.batch
        vectors = {t: torch.from_numpy(self._rows.pull(t, ids)) for t, ids in batch.ids.items()}
        with torch.inference_mode():
            scores: F32 = self._world.learner.heads.served(self._model(batch, vectors)).numpy()
        return scores

"""Rows that grow in width under the trainer: real tables, the real step. No output changes, the rest learns."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from parameter_server.shard import Shard
from schema.config import Config, OptimizerConfig, ShardConfig
from schema.records import F32, U64
from tests.trainer.make import DIM, block, config
from trainer.errors import RecoveryError
from trainer.pieces import Piece, PieceRows, piece
from trainer.state import TrainerState
from trainer.step import Computed, Learner

TABLE = "embedding"
NARROW = 2
GROW_AT = 4


def growing(kind: str = "rowwise_adagrad") -> Config:
    base = config()
    table = base.parameter_server.tables[0]
    optimizer = OptimizerConfig(kind=kind)  # type: ignore[arg-type]
    table = msgspec.structs.replace(
        table, widths=(NARROW, DIM), grow_at=(GROW_AT,), optimizer=optimizer, init_scale=0.5
    )
    server = msgspec.structs.replace(
        base.parameter_server, tables=(table,), shards=(ShardConfig(port=1, ops_port=2),)
    )
    return msgspec.structs.replace(base, parameter_server=server)


class World:
    """A learner whose vectors come from a shard and whose gradients go there."""

    def __init__(self, settings: Config) -> None:
        self.shard = Shard(settings.parameter_server, 0)
        self.learner = Learner(settings, self)
        blocks = [block(offset, user=offset) for offset in range(2)]
        kept = [piece(b, b.mask) for b in blocks]
        self.pieces: list[Piece] = [p for p in kept if p is not None]
        self.step = 0

    def pull(self, table: str, ids: U64) -> F32:
        return self.shard.pull([(table, ids)])[0]

    def compute(self) -> Computed:
        return self.learner.compute(self.learner.fetch(PieceRows(self.pieces)), self.step)

    def push(self, computed: Computed, scale: float = 1.0) -> None:
        assert computed.gradients is not None
        pairs = {table: (ids, g * np.float32(scale)) for table, (ids, g) in computed.gradients.items()}
        self.shard.push("a", self.step, pairs, 0)
        self.step += 1

    def train(self) -> None:
        computed = self.compute()
        self.learner.apply(sum(map(len, self.pieces)))
        self.push(computed)

    def widths(self) -> set[int]:
        ids = self.learner.prepare(PieceRows(self.pieces)).batch.ids[TABLE]
        return {self.shard.row_of(TABLE, int(i)).state.width for i in ids}


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "ftrl"])
def test_a_row_that_grows_changes_no_output_and_then_learns(kind: str) -> None:
    world = World(growing(kind))
    for _ in range(GROW_AT - 1):
        world.train()
    before = world.compute()
    ids = world.learner.prepare(PieceRows(world.pieces)).batch.ids[TABLE]
    assert world.widths() == {NARROW}
    assert not world.pull(TABLE, ids)[:, NARROW:].any()

    world.push(before, scale=0.0)  # a push that changes nothing but the count of pushes
    assert world.widths() == {DIM}
    after = world.compute()
    assert np.array_equal(after.predictions.view(np.uint32), before.predictions.view(np.uint32))

    assert after.gradients is not None
    _, gradients = after.gradients[TABLE]
    assert (gradients[:, NARROW:] != 0).any(axis=1).all(), "every new block has a gradient"
    world.learner.apply(sum(map(len, world.pieces)))
    world.push(after)
    assert (world.pull(TABLE, ids)[:, NARROW:] != 0).any(axis=1).all(), "and so learns"
    assert not np.array_equal(world.compute().predictions, before.predictions)


def test_the_projections_are_the_learners_and_in_its_checkpoint() -> None:
    settings = growing()
    world = World(settings)
    for _ in range(3):
        world.train()
    weights = {n: layer.weight.detach().clone() for n, layer in world.learner.model.projections.items()}
    assert set(weights) == {"user", "video", "seen"}
    assert not any(torch.equal(weight, torch.eye(DIM)) for weight in weights.values()), "they have learned"

    image = TrainerState(settings, world.learner).image()
    other = World(settings).learner
    TrainerState(settings, other).restore(image)
    for name, weight in weights.items():
        assert torch.equal(other.model.projections[name].weight, weight)
    plain = config()
    with pytest.raises(RecoveryError, match=r"projections\.user\.weight"):
        TrainerState(plain, Learner(plain, world)).restore(image)


def test_tables_of_one_width_have_no_projection() -> None:
    plain = config()
    assert not Learner(plain, World(growing())).model.projections

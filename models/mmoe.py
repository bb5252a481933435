"""The ranker: pooled slot embeddings and dense values into a mixture of experts, a shortcut and a tower.

The shortcut, linear in the inputs, lets a head read an id's own bias at once, before the experts have learned
to pass it on (Cheng et al., "Wide & Deep", DLRS 2016).

The vectors of a slot whose table has several widths arrive with zeros behind the narrow ones and go through a
projection that all ids of the slot share (Ginart et al., "Mixed Dimension Embeddings", ISIT 2021). What is
zero meets columns that do not matter, so that a vector that grows by a block of zeros changes no output; and
gets its gradients through them, so that the block learns. Pooling is linear and comes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from models.batch import Batch
from models.mixture import Mixture
from models.pooling import TargetAttention, pooled
from models.tower import PositionTower
from schema.config import Config, FeaturesConfig, ModelConfig


class MMoE(nn.Module):
    """Logits of `tasks` tasks for a batch; `models.heads` says what they mean.

    Args:
        config: layer sizes, and whether there is a position tower.
        features: the slots, each of which gives `dim` inputs, and the dense values, one each.
        tasks: how many heads.
        dim: the width of an embedding, of the widest where there are several.
        projected: the names of the slots with a projection, which starts as the identity.
    """

    def __init__(
        self,
        config: ModelConfig,
        features: FeaturesConfig,
        tasks: int,
        dim: int,
        projected: Collection[str] = (),
    ) -> None:
        super().__init__()
        width = len(features.slots) * dim + len(features.dense)
        self.mixture = Mixture(config, width, tasks)
        self.shortcut = nn.Linear(width, tasks, bias=False)
        self.tower = None if config.position is None else PositionTower(config.position, tasks)
        attending = [s.name for s in features.slots if s.pool == "attention"]
        self.attention = nn.ModuleDict({name: TargetAttention(dim) for name in attending})
        self.projections = nn.ModuleDict({name: _identity(dim) for name in projected})
        self._noisy = config.gate_dropout > 0

    @classmethod
    def of(cls, config: Config) -> Self:
        """The untrained ranker of `config`: slots of tables with several widths have a projection."""
        tables = {table.name: table for table in config.parameter_server.tables}
        slots = config.features.slots
        projected = [slot.name for slot in slots if len(tables[slot.table].classes) > 1]
        return cls(config.model, config.features, len(config.tasks), tables[slots[0].table].dim, projected)

    def start_from(self, priors: Sequence[float]) -> None:
        """Sets each head's bias so that an untrained model predicts its task's prior, in (0, 1)."""
        self.mixture.start_from(priors)

    def forward(self, batch: Batch, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Logits, shape (n, tasks), from `embeddings` f32 (u, dim) of `batch.ids`, by table."""
        return self._placed(self._worth(batch, embeddings, None), batch, None)

    def learning(
        self, batch: Batch, embeddings: Mapping[str, Tensor], noise: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The logits (n, tasks) to learn from, with what dropout `noise` draws, and those of `forward`.

        The latter have no gradient.
        """
        worth = self._worth(batch, embeddings, noise)
        with torch.no_grad():
            plain = self._worth(batch, embeddings, None) if self._noisy else worth
            scored = self._placed(plain, batch, None)
        return self._placed(worth, batch, noise), scored

    def _worth(self, batch: Batch, embeddings: Mapping[str, Tensor], noise: torch.Generator | None) -> Tensor:
        x = self._inputs(batch, embeddings)
        shortcut: Tensor = self.shortcut(x)
        logits: Tensor = self.mixture(x, noise)
        return logits + shortcut

    def _placed(self, logits: Tensor, batch: Batch, noise: torch.Generator | None) -> Tensor:
        if self.tower is None:
            return logits
        gain: Tensor = self.tower(batch, noise)
        return logits + gain

    def _inputs(self, batch: Batch, embeddings: Mapping[str, Tensor]) -> Tensor:
        plain = [s for s in batch.context if s.target is None]
        vectors = pooled([*plain, *batch.items], embeddings)
        context, items = ({s.name: vectors[s.name] for s in slots} for slots in (plain, batch.items))
        attended = {
            s.name: self.attention[s.name](s, embeddings[s.table], items[s.target], batch.request_of_row)
            for s in batch.context
            if s.target is not None
        }
        shared = torch.cat([*self._projected(context), batch.context_dense], dim=1)[batch.request_of_row]
        return torch.cat(
            [shared, *self._projected(items), batch.item_dense, *self._projected(attended)], dim=1
        )

    def _projected(self, slots: Mapping[str, Tensor]) -> list[Tensor]:
        """The vectors of `slots`, (n, dim) by name, those with a projection through it."""
        return [self.projections[n](v) if n in self.projections else v for n, v in slots.items()]


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim, bias=False)
    nn.init.eye_(layer.weight)
    return layer

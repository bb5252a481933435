"""One training step: predictions from parameters that have not seen the rows, then their gradients.

Knows no stream and no files; whoever reads rows, online or in batches, steps with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import Batch, Collator
from models.losses import masked_log_loss
from models.mmoe import MMoE
from schema.config import Config
from schema.records import F32, U64
from trainer.entries import Piece

Gradients = Mapping[str, tuple[U64, F32]]
"""Distinct ids (u,) and gradients (u, dim), by table."""


class Puller(Protocol):
    """The part of the parameter server's client that a step reads through."""

    def pull(self, table: str, ids: U64) -> F32:
        """The vectors (n, dim) of ids (n,)."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a step found: predictions f32 (n, T), and gradients, or None where one is not finite.

    Sparse gradients are of the loss summed over rows, so that what a row teaches an embedding does not
    depend on how many others its batch has.
    """

    predictions: F32
    gradients: Gradients | None
    pull_seconds: float
    compute_seconds: float


class Learner:
    """The ranker with its dense optimizer.

    Args:
        config: features, tasks, model, learning rate and seed.
        puller: where embeddings come from.
        clock: seconds, for timings.
    """

    def __init__(
        self, config: Config, puller: Puller, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        torch.manual_seed(config.trainer.seed)
        dims = {table.name: table.dim for table in config.parameter_server.tables}
        dim = dims[config.features.slots[0].table]
        self.model = MMoE(config.model, config.features, len(config.tasks), dim)
        self.model.start_from([task.prior for task in config.tasks])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.trainer.learning_rate)
        self._collator = Collator(config.features)
        self._puller = puller
        self._clock = clock

    def compute(self, pieces: Sequence[Piece], labels: F32, mask: F32) -> Computed:
        """Score the rows of `pieces`, find the gradients, change no parameter; labels and mask f32 (n, T).

        The dense gradients stay in the model, for `apply`.
        """
        start = self._clock()
        batch = self._collator.collate([p.features for p in pieces], [len(p.items) for p in pieces])
        vectors = {table: self._puller.pull(table, ids) for table, ids in batch.ids.items()}
        pulled = self._clock()
        predictions, gradients = self._learn(batch, vectors, torch.from_numpy(labels), torch.from_numpy(mask))
        return Computed(predictions, gradients, pulled - start, self._clock() - pulled)

    def apply(self) -> None:
        """Update the dense parameters by the gradients of the last `compute`."""
        self.optimizer.step()

    def _learn(
        self, batch: Batch, vectors: Mapping[str, F32], labels: Tensor, mask: Tensor
    ) -> tuple[F32, Gradients | None]:
        embeddings = {table: torch.from_numpy(rows).requires_grad_() for table, rows in vectors.items()}
        self.optimizer.zero_grad()
        logits = self.model(batch, embeddings)
        masked_log_loss(logits, labels, mask).backward()  # type: ignore[no-untyped-call]
        predictions: F32 = torch.sigmoid(logits.detach()).numpy()
        sparse = {table: _gradient(rows) * batch.rows for table, rows in embeddings.items()}
        dense = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([*dense, *sparse.values()])
        if not bool(torch.isfinite(norm)) or not bool(np.isfinite(predictions).all()):
            return predictions, None
        return predictions, {table: (batch.ids[table], g.numpy()) for table, g in sparse.items()}


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad

"""One training step: predictions from parameters that have not seen the rows, then their gradients.

Knows no stream and no files; whoever reads rows, online or in batches, steps with it.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import Batch, Collator
from models.dense import dump_payload
from models.heads import Heads, Targets
from models.losses import row_weights
from models.mmoe import MMoE
from schema.config import Config
from schema.records import F32, I64, U64
from trainer.arrivals import Arrived
from trainer.engagements import Wanted
from trainer.errors import DeviceMissing
from trainer.ranks import Alone, Ranks
from trainer.retrieval import Retrieval
from trainer.rows import Rows

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
    depend on how many others its batch has. Rows that are weighted weigh 1 on average.
    """

    predictions: F32
    gradients: Gradients | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Prepared:
    """The rows of one step as tensors, and what they teach."""

    batch: Batch
    targets: Targets


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a step needs: its rows, and the vectors (u, dim) of their ids by table."""

    prepared: Prepared
    vectors: Mapping[str, F32]


class Learner:
    """The ranker with its dense optimizer.

    Args:
        config: features, tasks, model, learning rate and seed.
        puller: where embeddings come from.
        clock: seconds, for timings.
        ranks: the processes that this one learns the dense parameters with.
        places: which shard has each of some ids; asking is cheaper for ids that lie by shard.

    Raises:
        DeviceMissing: `trainer.device` is not there.
    """

    def __init__(
        self,
        config: Config,
        puller: Puller,
        clock: Callable[[], float] = time.perf_counter,
        ranks: Ranks | None = None,
        places: Callable[[U64], I64] | None = None,
    ) -> None:
        self.device = device_of(config)
        torch.manual_seed(config.trainer.seed)
        self.model = MMoE.of(config)
        self.heads = Heads.of(config)
        self.model.start_from(self.heads.priors([task.prior for task in config.tasks]))
        self.model.to(self.device)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.trainer.learning_rate, fused=True
        )
        retrieval = config.retrieval
        self.retrieval = None if retrieval is None else Retrieval(config, retrieval)
        if retrieval is not None and self.retrieval is not None:
            group = {"params": list(self.retrieval.module.parameters()), "lr": retrieval.learning_rate}
            self.optimizer.add_param_group(group)
        self._collator = Collator(config.features, places)
        self._puller = puller
        self._ranks = ranks or Alone()
        self._clock = clock
        self._seed = config.trainer.seed
        self._clip = config.trainer.propensity_clip

    def fetch(self, rows: Rows) -> Fetched:
        """`rows` with their vectors, as the shards have them now."""
        return self.complete(self.prepare(rows))

    def complete(self, prepared: Prepared) -> Fetched:
        """`prepared` with its vectors, as the shards have them now. Safe beside `compute`."""
        return Fetched(prepared, self.pull(prepared))

    def compute(self, fetched: Fetched, step: int) -> Computed:
        """Score the rows, find the gradients, change no parameter.

        `step` decides what dropout draws. The dense gradients stay in the model, for `apply`.
        """
        start = self._clock()
        predictions, gradients = self.learn(fetched.prepared, fetched.vectors, step)
        return Computed(predictions, gradients, self._clock() - start)

    def seek(self, rows: Rows, step: int, arrived: Arrived) -> Wanted | None:
        """What retrieval needs to learn from `rows` in `step`; None where it is not configured.

        `arrived` are items that nobody has seen yet.
        """
        return None if self.retrieval is None else self.retrieval.prepare(rows, step, arrived)

    def rows(self, wanted: Wanted) -> F32:
        """The rows that `wanted` names, as the shards have them now. Safe beside `compute`."""
        assert self.retrieval is not None  # noqa: S101 - it wants them
        return self._puller.pull(self.retrieval.table, wanted.parts.ids)

    def compute_retrieval(self, wanted: Wanted, rows: F32, computed: Computed) -> Computed:
        """Have retrieval learn from `rows`; `computed`, of the same step, with its gradients.

        Its dense gradients stay in its module, for `apply`.
        """
        assert self.retrieval is not None  # noqa: S101 - it wants them
        start = self._clock()
        found = self.retrieval.learn(wanted, rows)
        gradients = computed.gradients
        if gradients is not None and found is not None:
            gradients = {**gradients, self.retrieval.table: found}
        return Computed(computed.predictions, gradients, computed.seconds + self._clock() - start)

    def prepare(self, rows: Rows) -> Prepared:
        """`rows` as tensors."""
        batch = rows.collated(self._collator)
        labels, mask, log_keep = map(torch.from_numpy, (rows.labels(), rows.mask(), rows.log_keep()))
        taken = rows.retract()
        retract = None if taken is None else torch.from_numpy(taken)
        return Prepared(batch, Targets(labels, mask, log_keep, self._weights(rows), retract))

    def _weights(self, rows: Rows) -> Tensor | None:
        """What each of `rows` counts for in the loss; None where all count alike."""
        if self._clip is None:
            return None
        odds = rows.propensities()
        return None if odds is None else row_weights(torch.from_numpy(odds), self._clip)

    def pull(self, prepared: Prepared) -> Mapping[str, F32]:
        """The vectors (u, dim) of the batch's ids, by table, as the shards have them now."""
        return {table: self._puller.pull(table, ids) for table, ids in prepared.batch.ids.items()}

    def learn(
        self, prepared: Prepared, vectors: Mapping[str, F32], step: int
    ) -> tuple[F32, Gradients | None]:
        """The predictions f32 (n, T) by these vectors, and the gradients; see `Computed`."""
        batch, targets = prepared.batch.to(self.device), prepared.targets.to(self.device)
        embeddings = {table: _leaf(rows, self.device) for table, rows in vectors.items()}
        self.optimizer.zero_grad()
        logits, scored = self.model.learning(batch, embeddings, noise(self._seed, step))
        self.heads.loss(logits, targets).backward()  # type: ignore[no-untyped-call]
        predictions: F32 = self.heads.served(scored.detach()).cpu().numpy()
        sparse = {table: _gradient(rows).mul_(batch.rows) for table, rows in embeddings.items()}
        dense = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([*dense, *sparse.values()])
        if not bool(torch.isfinite(norm)) or not bool(np.isfinite(predictions).all()):
            return predictions, None
        return predictions, {table: (batch.ids[table], g.cpu().numpy()) for table, g in sparse.items()}

    def digest(self) -> str:
        """Of the dense parameters, 8 hexadecimal digits: between two steps all ranks have the same."""
        return f"{zlib.crc32(dump_payload(self.model)):08x}"

    def apply(self, rows: int) -> None:
        """Update the dense parameters by the gradients of the last `learn`, which was of so many rows.

        With 0 rows those do not count, but those of other ranks do.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self._ranks.average(parameters, rows):
            self.optimizer.step()


def device_of(config: Config) -> torch.device:
    """Where the dense network is computed; of several CUDA devices, the one of this process's number.

    Raises:
        DeviceMissing: it is not there.
    """
    if config.trainer.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceMissing("trainer.device: cuda, but torch finds no CUDA device here; legal is cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def noise(seed: int, step: int) -> torch.Generator:
    """What dropout draws from in `step`: the same whenever the step is repeated."""
    return torch.Generator().manual_seed((seed * 0x9E3779B1 + step) & 0x7FFFFFFFFFFFFFFF)


def _leaf(rows: F32, device: torch.device) -> Tensor:
    # torch wants memory that it may write to; what a single shard answers is the message's
    return torch.from_numpy(np.require(rows, requirements="W")).to(device).requires_grad_()


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad

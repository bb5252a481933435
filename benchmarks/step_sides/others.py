"""What the online step is compared with: the bare network, and torch's own sparse embeddings."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.batch import SlotIndex
from models.heads import Heads
from models.mmoe import MMoE
from schema.config import Config
from schema.records import F32, U64
from trainer.rows import Rows
from trainer.step import Fetched, Learner, Prepared


class _Constant:
    """Vectors that cost nothing to fetch."""

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def pull(self, table: str, ids: U64) -> F32:  # noqa: ARG002 - all tables are alike
        return np.full((len(ids), self._dim), 0.01, np.float32)


class DenseSide:
    """The network's forward, backward and Adam on tensors that are there already, vectors included."""

    def __init__(self, config: Config, batches: Sequence[Rows]) -> None:
        self._learner = Learner(config, _Constant(config.parameter_server.tables[0].dim))
        self._batches: list[Fetched] = [self._learner.fetch(rows) for rows in batches]
        self._rows = sum(f.prepared.batch.rows for f in self._batches)

    def rate(self) -> float:
        """Samples a second."""
        began = time.perf_counter()
        for step, fetched in enumerate(self._batches):
            self._learner.learn(fetched.prepared, fetched.vectors, step)
            self._learner.apply(fetched.prepared.batch.rows)
        return self._rows / (time.perf_counter() - began)

    def distinct_ids(self) -> list[int]:
        """Of each batch."""
        return [sum(len(ids) for ids in f.prepared.batch.ids.values()) for f in self._batches]


class TorchSide:
    """The same network over `nn.Embedding(sparse=True)`: a dict gives each id its row, Adagrad updates rows.

    It is handed its batches collated, with the ids of every slot, and has only to find their rows. The table
    is made large enough from the start, so that it never has to grow.
    """

    def __init__(self, config: Config, batches: Sequence[Rows], capacity: int) -> None:
        torch.manual_seed(config.trainer.seed)
        table = config.parameter_server.tables[0]
        collator = Learner(config, _Constant(table.dim))
        self._batches = [_with_every_id(collator.prepare(rows)) for rows in batches]
        self._heads = Heads.of(config)
        self._model = MMoE.of(config)
        self._dense = torch.optim.Adam(self._model.parameters(), lr=config.trainer.learning_rate)
        self._rows: dict[int, int] = {}
        self._embedding = nn.Embedding(capacity, table.dim, sparse=True)
        self._sparse = torch.optim.Adagrad(
            self._embedding.parameters(),
            lr=table.optimizer.learning_rate,
            initial_accumulator_value=table.optimizer.initial_accumulator,
        )

    def rate(self) -> float:
        """Samples a second."""
        rows = 0
        began = time.perf_counter()
        for step, prepared in enumerate(self._batches):
            rows += self._step(prepared, step)
        return rows / (time.perf_counter() - began)

    def _step(self, prepared: Prepared, step: int) -> int:
        batch = prepared.batch
        vectors: dict[str, Tensor] = {}
        for table, ids in batch.ids.items():
            known = self._rows
            index = torch.tensor([known.setdefault(i, len(known)) for i in ids.tolist()])
            vectors[table] = self._embedding(index)
        self._dense.zero_grad()
        self._sparse.zero_grad()
        noise = torch.Generator().manual_seed(step)
        logits, _ = self._model.learning(batch, vectors, noise)
        self._heads.loss(logits, prepared.targets).backward()  # type: ignore[no-untyped-call]
        self._dense.step()
        self._sparse.step()
        return batch.rows


def _with_every_id(prepared: Prepared) -> Prepared:
    """The batch with its ids one by one as the slots have them, repeats and all, in the slots' order."""
    batch = prepared.batch
    ids: dict[str, list[U64]] = {table: [] for table in batch.ids}
    counts = dict.fromkeys(batch.ids, 0)

    def spread(slot: SlotIndex) -> SlotIndex:
        own = batch.ids[slot.table][slot.index.numpy()]
        index = torch.arange(counts[slot.table], counts[slot.table] + len(own))
        ids[slot.table].append(own)
        counts[slot.table] += len(own)
        return dataclasses.replace(slot, index=index)

    context, items = tuple(map(spread, batch.context)), tuple(map(spread, batch.items))
    every = {table: np.concatenate(parts) for table, parts in ids.items()}
    return Prepared(dataclasses.replace(batch, ids=every, context=context, items=items), prepared.targets)

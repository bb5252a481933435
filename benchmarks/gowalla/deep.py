"""Deep Retrieval on a fitted base: the structure learned by EM from the base's first items; what it finds.

An engagement (x, v) is a user and one of the items that the base's softmax puts first for x, drawn by rank.
Nothing of the split that judges is in it, and some users are kept out: no answer is learned by heart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gowalla.base import Base
from gowalla.checkins import F32, I64, Checkins
from models.retrieval.beam import Retrieved, retrieve
from models.retrieval.learning import StructureLearner
from models.retrieval.network import StructureNetwork, structure_loss
from models.retrieval.postings import Postings
from models.retrieval.weights import BeamWeights
from schema.config import RetrievalConfig


@dataclass(frozen=True)
class Learned:
    """A structure network and where it has the items."""

    weights: BeamWeights
    learner: StructureLearner


@dataclass(frozen=True)
class Schedule:
    """`rounds` of EM: `epochs` of the network, a score of every user, an M-step; then `last` epochs more.

    Of a user's first items, `pairs` are learned from in an epoch and `scored` in a round. `frozen` leaves the
    random paths as they are.
    """

    rounds: int = 3
    epochs: int = 3
    last: int = 4
    pairs: int = 32
    scored: int = 64
    batch: int = 512
    learning_rate: float = 3e-3
    frozen: bool = False


@dataclass(frozen=True)
class Teacher:
    """Vectors f32 (n, dim) of the users to learn from, and the items the base puts first, i64 (n, m)."""

    vectors: F32
    first: I64

    def batches(self, size: int, pairs: int, rng: np.random.Generator) -> Iterator[tuple[F32, I64, I64]]:
        """All users in random order: vectors (b, dim), and `pairs` distinct items of each with its row.

        Rank r is drawn with weight 1 / (r + 10): the first few decide what a user sees, but are only few.
        """
        # the largest of log-weights with Gumbel noise are a draw without replacement
        ranks = -np.log(np.arange(self.first.shape[1]) + 10)
        order = rng.permutation(len(self.vectors))
        for start in range(0, len(order), size):
            users = order[start : start + size]
            noisy = ranks + rng.gumbel(size=(len(users), len(ranks)))
            drawn = np.argpartition(-noisy, pairs - 1, axis=1)[:, :pairs]
            items = np.take_along_axis(self.first[users], drawn, axis=1)
            yield self.vectors[users], items.ravel(), np.repeat(np.arange(len(users)), pairs)


class _Learning:
    """The network, its optimizer and the structure, while they are learned."""

    def __init__(self, teacher: Teacher, items: int, config: RetrievalConfig, schedule: Schedule) -> None:
        torch.manual_seed(config.seed)
        self._teacher, self._schedule, self._items = teacher, schedule, np.arange(items)
        self._rng = np.random.default_rng(config.seed)
        dim = teacher.vectors.shape[1]
        self.network = StructureNetwork(dim, config.nodes, config.depth, config.hidden)
        self.learner = StructureLearner(config)
        self.learner.paths(self._items)
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=schedule.learning_rate)

    def epoch(self) -> float:
        """Of the network; its mean loss."""
        losses = []
        for x, items, rows in self._teacher.batches(self._schedule.batch, self._schedule.pairs, self._rng):
            paths = torch.from_numpy(self.learner.paths(items))
            loss = structure_loss(self.network, torch.from_numpy(x), torch.from_numpy(rows), paths).mean()
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def place(self) -> int:
        """Scores by the network as it is now, and the M-step; how many items moved."""
        weights = self.network.export()
        self.learner.scores.forget(self.learner.structure.rows_of(self._items))
        for x, items, rows in self._teacher.batches(4096, self._schedule.scored, self._rng):
            self.learner.score(weights, x, items, rows)
        return self.learner.place()


def learn(
    teacher: Teacher, items: int, config: RetrievalConfig, schedule: Schedule, say: Callable[[str], None]
) -> Learned:
    """A structure of `items` items for users as `teacher` has them."""
    learning = _Learning(teacher, items, config, schedule)
    for number in range(schedule.rounds + 1):
        began, ends = time.monotonic(), number == schedule.rounds
        losses = [learning.epoch() for _ in range(schedule.last if ends else schedule.epochs)]
        moved = 0 if ends or schedule.frozen else learning.place()
        largest = learning.learner.structure.sizes().max()
        took = time.monotonic() - began
        say(f"structure loss {losses[-1]:.3f}, {moved} items moved, largest path {largest}, {took:.0f} s")
    return Learned(learning.network.export(), learning.learner)


def recommend(
    data: Checkins, base: Base, deep: Learned, config: RetrievalConfig, top: int
) -> tuple[I64, Retrieved]:
    """The best `top` items less the known ones, i64 (users, top), -1 for none, and all that was retrieved."""
    users = base.all_users(data)
    found = retrieve(
        deep.weights,
        Postings.of(deep.learner.structure.index(), base.reranker()),
        users,
        beam=config.beam,
        limit=config.rerank,
        top=config.rerank,
    )
    items, counts = data.known.of(np.arange(data.users))
    known = np.repeat(np.arange(data.users), counts) * data.items + items
    keys = np.arange(data.users)[:, None] * data.items + found.rows
    fresh = (found.rows >= 0) & ~np.isin(keys, known)
    first = np.argsort(~fresh, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(found.rows, first, axis=1).astype(np.int64)
    return np.where(np.take_along_axis(fresh, first, axis=1), best, -1), found

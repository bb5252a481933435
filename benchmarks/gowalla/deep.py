"""Deep Retrieval on a fitted base: the structure learned by EM, and what it recommends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from base import Base
from checkins import F32, I64, Checkins, Lists

from models.retrieval.beam import Retrieved, retrieve
from models.retrieval.learning import StructureLearner
from models.retrieval.network import StructureNetwork, structure_loss
from models.retrieval.weights import BeamWeights
from schema.config import RetrievalConfig


@dataclass(frozen=True)
class Learned:
    """A structure network and where it has the items."""

    weights: BeamWeights
    learner: StructureLearner


@dataclass(frozen=True)
class Schedule:
    """`rounds` of EM: an epoch of the network, scores of half the pairs, an M-step; one more epoch follows.

    `pairs` items of a half are learned from in an epoch; `frozen` leaves the random paths as they are.
    """

    rounds: int = 5
    pairs: int = 16
    batch: int = 512
    learning_rate: float = 3e-3
    frozen: bool = False


@dataclass(frozen=True)
class Halves:
    """Each user twice: vectors (2n, dim) from one half of the known items, `wanted` the other half.

    A structure learned from whole histories would learn to find what they hold already.
    """

    vectors: F32
    wanted: Lists


def halves(data: Checkins, base: Base, rng: np.random.Generator) -> Halves:
    """The users of `data`, split by chance."""
    items, counts = data.known.of(np.arange(data.users))
    owner = np.repeat(np.arange(data.users), counts)
    # every second of a user's items in random order
    order = np.lexsort((rng.random(len(items)), owner))
    side = (np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)) % 2
    place = np.lexsort((owner, side))
    split = items[order][place]
    sizes = np.bincount(side * data.users + owner, minlength=2 * data.users)
    parts = Lists(split, np.concatenate(([0], np.cumsum(sizes))))
    other = np.roll(np.arange(2 * data.users), data.users)
    return Halves(base.vectors_of(parts), Lists(*_reordered(parts, other)))


def _reordered(lists: Lists, users: I64) -> tuple[I64, I64]:
    items, counts = lists.of(users)
    return items, np.concatenate(([0], np.cumsum(counts)))


def learn(
    data: Checkins,
    base: Base,
    config: RetrievalConfig,
    schedule: Schedule,
    say: Callable[[str], None],
) -> Learned:
    """A structure for users as `base` sees them."""
    torch.manual_seed(config.seed)
    network = StructureNetwork(base.history.shape[1], config.nodes, config.depth, config.hidden)
    learner = StructureLearner(config)
    learner.paths(np.arange(data.items))
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    for number in range(schedule.rounds + 1):
        began, rng = time.monotonic(), np.random.default_rng(number)
        split = halves(data, base, rng)
        loss = _epoch(split, network, learner, optimizer, schedule, rng)
        moved = 0
        if not schedule.frozen and number < schedule.rounds:
            # one half of each user foretells the other; the next round draws other halves
            every = np.arange(data.users)
            items, counts = split.wanted.of(every)
            learner.score(network.export(), split.vectors, items, np.repeat(every, counts))
            moved = learner.place()
        largest = learner.structure.index().sizes().max()
        took = time.monotonic() - began
        say(f"structure loss {loss:.3f}, {moved} items moved, largest path {largest}, {took:.0f} s")
    return Learned(network.export(), learner)


def _epoch(  # noqa: PLR0917 - everything that an epoch reads or changes
    split: Halves,
    network: StructureNetwork,
    learner: StructureLearner,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    rng: np.random.Generator,
) -> float:
    order, losses = rng.permutation(len(split.vectors)), []
    for start in range(0, len(order), schedule.batch):
        batch = order[start : start + schedule.batch]
        items, rows = _drawn(split.wanted, batch, schedule.pairs, rng)
        if not len(items):
            continue
        x = torch.from_numpy(split.vectors[batch])
        paths = torch.from_numpy(learner.paths(items))
        loss = structure_loss(network, x, torch.from_numpy(rows), paths).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _drawn(lists: Lists, users: I64, pairs: int, rng: np.random.Generator) -> tuple[I64, I64]:
    """Up to `pairs` items of each of `users`, and the user's place among them."""
    items, counts = lists.of(users)
    owner = np.repeat(np.arange(len(users)), counts)
    order = np.lexsort((rng.random(len(items)), owner))
    first = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts) < pairs
    return items[order][first], owner[order][first]


def recommend(
    data: Checkins, base: Base, deep: Learned, config: RetrievalConfig, top: int
) -> tuple[I64, Retrieved]:
    """The best `top` items less the known ones, i64 (users, top), -1 for none, and all that was retrieved."""
    users = base.all_users(data)
    found = retrieve(
        deep.weights,
        deep.learner.structure.index(),
        base.reranker(),
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

"""What each part of the structure's learning is for, on users and items without clusters."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from models.retrieval.beam import retrieve
from models.retrieval.learning import StructureLearner
from models.retrieval.network import StructureNetwork, structure_loss
from models.retrieval.postings import Postings, Reranker
from schema.config import RetrievalConfig

CONFIG = RetrievalConfig(
    history="watched",
    nodes=12,
    depth=2,
    paths=3,
    beam=24,
    hidden=32,
    penalty=1e-2,
    scored_paths=24,
    score_beam=24,
    score_decay=1.0,
)
DIM, ITEMS, USERS, FIRST, LIMIT = 6, 500, 1500, 10, 50
EVERY = np.arange(ITEMS)


def _learned(config: RetrievalConfig, *, frozen: bool = False) -> tuple[float, int]:
    """The share of unseen users' first items among `LIMIT` reranked ones, and the largest path's size."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(ITEMS, DIM)).astype(np.float32)
    users = rng.normal(size=(2 * USERS, DIM)).astype(np.float32)
    first = np.argsort(-(users @ items.T), axis=1)[:, :FIRST]
    torch.manual_seed(0)
    network = StructureNetwork(DIM, config.nodes, config.depth, config.hidden)
    learner = StructureLearner(config)
    learner.paths(EVERY)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for number in range(4):
        for _ in range(5):
            for batch in rng.permutation(USERS).reshape(-1, 100):
                paths = torch.from_numpy(learner.paths(first[batch].ravel()))
                rows = torch.arange(len(batch)).repeat_interleave(FIRST)
                loss = structure_loss(network, torch.from_numpy(users[batch]), rows, paths).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if number < 3 and not frozen:
            learner.scores.forget(EVERY)
            rows = np.repeat(np.arange(USERS), FIRST)
            learner.score(network.export(), users[:USERS], first[:USERS].ravel(), rows)
            learner.place()
    index, unseen = learner.structure.index(), slice(USERS, None)
    reranker = Reranker(items, np.zeros(ITEMS, np.float32))
    postings = Postings.of(index, reranker)
    found = retrieve(network.export(), postings, users[unseen], beam=config.beam, limit=LIMIT, top=FIRST)
    hits = [np.isin(a, b).mean() for a, b in zip(first[unseen], found.rows, strict=True)]
    return float(np.mean(hits)), int(index.sizes().max())


@pytest.fixture(scope="module")
def whole() -> tuple[float, int]:
    return _learned(CONFIG)


def test_three_paths_an_item_find_more_than_one(whole):
    found, _ = _learned(msgspec.structs.replace(CONFIG, paths=1))
    assert whole[0] > found


def test_without_the_penalty_paths_are_far_larger(whole):
    _, largest = _learned(msgspec.structs.replace(CONFIG, penalty=0.0))
    assert largest > 1.5 * whole[1]


def test_paths_that_stay_random_find_clearly_less(whole):
    found, _ = _learned(CONFIG, frozen=True)
    assert whole[0] > found + 0.1


def test_a_tenth_of_the_items_holds_most_of_what_brute_force_finds(whole):
    assert whole[0] > 0.8

"""Deep Retrieval from end to end on users and items of known clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.retrieval.beam import retrieve
from models.retrieval.frequency import ItemFrequencies
from models.retrieval.learning import StructureLearner, whole_learner
from models.retrieval.model import Candidates, DeepRetrieval, Pairs
from models.retrieval.postings import Postings, Reranker
from models.retrieval.structure import PathStructure
from schema.config import RetrievalConfig

CONFIG = RetrievalConfig(
    history="watched",
    nodes=10,
    depth=2,
    paths=2,
    beam=8,
    hidden=32,
    penalty=1e-3,
    scored_paths=20,
    score_beam=20,
    placement_rows=6000,
)
DIM, CLUSTERS, EACH = 16, 15, 20
ITEMS = CLUSTERS * EACH


class Stream:
    """Users who like one cluster, and are seen with six items of it: five in the history, one to learn from."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def batch(self, users: int) -> tuple[np.ndarray, np.ndarray]:
        """Histories (users, 5) and items (users,), of ids from 1000 on."""
        clusters = self._rng.integers(0, CLUSTERS, users)
        seen = self._rng.permuted(np.tile(np.arange(EACH), (users, 1)), axis=1)[:, :6]
        items = 1000 + clusters[:, None] * EACH + seen
        return items[:, :5], items[:, 5]


class Trainer:
    """What the real one does, without a parameter server: `rows` of items are the table."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(ITEMS, DIM)
        self.bias = torch.nn.Parameter(torch.zeros(ITEMS))
        self.model = DeepRetrieval(CONFIG, DIM)
        self.learner = StructureLearner(CONFIG)
        self.frequencies = ItemFrequencies(0.999)
        parameters = [*self.model.parameters(), *self.table.parameters(), self.bias]
        self.optimizer = torch.optim.Adam(parameters, lr=0.01)

    def users(self, histories):
        starts = torch.arange(len(histories)) * 5
        return self.model.users(self.table(torch.from_numpy(histories.ravel() - 1000)), starts)

    def step(self, histories, items):
        users = self.users(histories)
        candidates, places = np.unique(items, return_inverse=True)
        paths = torch.from_numpy(self.learner.paths(items))
        self.frequencies.count(items - 1000)
        log_q = torch.from_numpy(self.frequencies.log_inclusion(candidates - 1000, len(items)))
        at = torch.from_numpy(candidates - 1000)
        losses = self.model.losses(
            users,
            Candidates(self.table(at), self.bias[at], log_q),
            Pairs(torch.arange(len(items)), torch.from_numpy(places), paths),
        )
        self.optimizer.zero_grad()
        losses.total().backward()
        self.optimizer.step()
        vectors = users.detach().numpy()
        if self.learner.score(self.model.export(), vectors, items, np.arange(len(items))):
            self.learner.place()
        return float(losses.structure.detach().mean())

    def reranker(self, structure):
        rows = structure.item_ids() - 1000
        return Reranker(self.table.weight.detach().numpy()[rows], self.bias.detach().numpy()[rows])


@pytest.fixture(scope="module")
def trained():
    trainer, stream = Trainer(), Stream(0)
    losses = [trainer.step(*stream.batch(256)) for _ in range(250)]
    return trainer, losses


def test_the_structure_is_learned_from_random_paths(trained):
    _, losses = trained
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 1.5


def test_retrieval_finds_nearly_what_brute_force_finds_from_a_part_of_the_items(trained):
    trainer, _ = trained
    copy = PathStructure(100, CONFIG.paths)
    copy.apply(trainer.learner.structure.changes_since(0, 0))
    histories, _ = Stream(1).batch(200)
    users = trainer.users(histories).detach().numpy()
    reranker = trainer.reranker(copy)
    best = np.argsort(-(users @ reranker.vectors.T + reranker.bias), axis=1)[:, :10]
    postings = Postings.of(copy.index(), reranker)
    found = retrieve(trainer.model.export(), postings, users, beam=CONFIG.beam, limit=90, top=10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(best, found.rows, strict=True)])
    assert recall > 0.9
    assert found.reranked.max() <= 90
    own = (copy.item_ids()[found.rows] - 1000) // EACH == (histories[:, :1] - 1000) // EACH
    assert own.mean() > 0.9


def test_a_new_item_goes_where_its_likely_users_look(trained):
    trainer, _ = trained
    histories, _ = Stream(2).batch(400)
    fans = histories[(histories[:, 0] - 1000) // EACH == 4]
    users = trainer.users(fans).detach().numpy()
    learner = StructureLearner(CONFIG)
    learner.restore(trainer.learner.saved())
    item = np.array([5000])
    weights = trainer.model.export()
    learner.introduce(item, users.mean(axis=0, keepdims=True), weights)
    learner.introduce(item, users[:1] * 0, weights)
    paths = learner.paths(item)[0]
    friends = learner.paths(np.arange(1000 + 4 * EACH, 1000 + 5 * EACH))
    assert np.isin(paths, friends).any()
    learner.remove(item)
    assert 5000 not in learner.structure


def test_what_changed_since_a_mark_completes_what_was_saved_then(trained):
    trainer, _ = trained
    learner, weights = StructureLearner(CONFIG), trainer.model.export()
    parts, marks = [learner.saved()], [learner.changes.mark()]
    for number in range(4):
        histories, items = Stream(10 + number).batch(60)
        chosen = items + 500 * (number == 2)
        learner.paths(chosen)
        learner.score(weights, trainer.users(histories).detach().numpy(), chosen[:9], np.arange(9))
        if number == 3:
            learner.remove(np.array([int(chosen[0]), 4]))
        parts.append(learner.saved(marks[-1]))
        marks.append(learner.changes.mark())
        assert whole_learner(parts) == learner.saved()
        assert len(parts[-1].weights) < len(learner.saved().weights)
    after_two = learner.saved(marks[2])
    assert whole_learner([*parts[:3], after_two]) == learner.saved()


def test_a_restored_learner_goes_on_bit_for_bit(trained):
    trainer, _ = trained
    saved = trainer.learner.saved()
    learners = [StructureLearner(CONFIG), StructureLearner(CONFIG)]
    histories, items = Stream(3).batch(300)
    vectors = trainer.users(histories).detach().numpy()
    for learner in learners:
        learner.restore(saved)
        learner.score(trainer.model.export(), vectors, items, np.arange(300))
        learner.place()
    assert learners[0].saved() == learners[1].saved()

"""Two stages: retrieval follows the trainer by whole rounds, whatever is lost or damaged, and leads feeds."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
import torch

from models.dense import PayloadError
from models.retrieval.beam import retrieve
from models.retrieval.delta import StructureError
from models.retrieval.shipping import RETRIEVAL, STRUCTURE
from parameter_server.dense import DenseVersion
from schema.features import Moment
from schema.ids import feature_id
from serving.candidates import Origin
from serving.sync import RoundError
from tests.serving.parts import CONFIG, NOW, Stage, did, item, video_ids
from trainer.retrieval import Retrieval

ITEMS = list(range(100, 160))
RETRIEVED = CONFIG.retrieval
assert RETRIEVED is not None


@dataclass
class Trainer:
    """Publishes as the real one does; `drop` names payloads that get lost on the way."""

    stage: Stage
    retrieval: Retrieval = field(default_factory=lambda: Retrieval(CONFIG, RETRIEVED))
    version: int = 0

    def place(self, *items: int) -> None:
        self.retrieval.learner.paths(np.array(items))

    def move(self, item_id: int, *paths: int) -> None:
        self.retrieval.learner.structure.assign(np.array([item_id]), np.array([paths], np.int32))

    def publish(self, damage: str | None = None, *, ranker: bool = True) -> None:
        self.version += 1
        for name, payload in self.retrieval.payloads():
            self._put(name, payload[:-9] if name == damage else payload)
        if ranker:
            self.stage.shards.publish(self.version, self.version)

    def _put(self, name: str, payload: bytes) -> None:
        self.stage.shards.shards[0].dense.put(name, DenseVersion(self.version, self.version, payload))

    def equals(self, stage: Stage) -> bool:
        """Whether what `stage` serves is the structure as it is here now."""
        served, structure = stage.replica.parameters.retrieval, self.retrieval.learner.structure
        view = served.learned.view
        index = structure.index()
        return (
            (view.epoch, view.version) == (structure.epoch, structure.version)
            and view.items.tolist() == structure.item_ids().tolist()
            and view.index.members.tolist() == index.members.tolist()
            and view.index.offsets.tolist() == index.offsets.tolist()
        )


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.learn(*[item(i) for i in ITEMS])
    return stage


@pytest.fixture
def trainer(stage) -> Trainer:
    trainer = Trainer(stage)
    trainer.place(*ITEMS)
    trainer.publish()
    stage.replica.sync.run_round()
    return trainer


def snapshots(stage: Stage) -> int:
    return stage.replica.parameters._updates._follower.snapshots


def test_a_first_round_brings_structure_weights_and_the_vectors_of_its_items(stage, trainer):
    assert trainer.equals(stage)
    served = stage.replica.parameters.retrieval
    for row, item_id in enumerate(ITEMS):
        encoded = stage.intake.catalogue.item(item_id)
        rows = [
            stage.shards.vector(i, "retrieval")
            for slot in range(len(encoded.ids))
            for i in encoded.slot(slot)
        ]
        wanted = np.sum(np.array(rows, np.float32), axis=0)
        np.testing.assert_allclose(served.reranker.vectors[row], wanted[:-1], rtol=1e-5)
        np.testing.assert_allclose(served.reranker.bias[row], wanted[-1], rtol=1e-5)
    weights = trainer.retrieval.module.export()
    assert all(
        np.array_equal(a, b) for a, b in zip(served.learned.beam.arrays(), weights.arrays(), strict=True)
    )


def test_later_rounds_bring_what_changed_and_rows_alone_bring_new_vectors(stage, trainer):
    trainer.place(500, 501)
    trainer.move(100, 1, 2, 3)
    trainer.publish()
    stage.replica.sync.run_round()
    assert trainer.equals(stage)
    assert snapshots(stage) == 1
    before = stage.replica.parameters.retrieval
    stage.shards.push(1, video_ids([500]), 1.0, table="retrieval")
    stage.replica.sync.run_round(dense=False)
    after = stage.replica.parameters.retrieval
    moved = (after.reranker.vectors != before.reranker.vectors).any(axis=1)
    assert after.learned.view.items[moved].tolist() == [500]
    assert after.learned is before.learned


def _vector(stage: Stage, item_id: int) -> np.ndarray:
    """[vector; bias] of an item as the shards have it now."""
    encoded = stage.intake.catalogue.item(item_id)
    ids = [i for slot in range(len(encoded.ids)) for i in encoded.slot(slot)]
    return np.sum([stage.shards.vector(i, "retrieval") for i in ids], axis=0, dtype=np.float32)


def _lie_as_made_from_scratch(stage: Stage, trainer: Trainer) -> None:
    """Each path of what is served has the items of the trainer's, with the codes of the vectors of now."""
    served, structure = stage.replica.parameters.retrieval, trainer.retrieval.learner.structure
    index, items = served.postings.index, served.learned.view.items
    ids = structure.item_ids()
    for path in range(structure.total_paths):
        members = np.arange(*index.offsets[path : path + 2])
        here = items[index.members[members]]
        assert sorted(here.tolist()) == sorted(ids[structure.index().on(path)].tolist())
        for at, item_id in zip(members.tolist(), here.tolist(), strict=True):
            codes, unit, bias = served.postings.codes[at], *served.postings.terms[at]
            wanted = _vector(stage, item_id)
            assert abs(bias - wanted[-1]) < 1e-5
            assert np.abs(codes[: len(wanted) - 1] * unit - wanted[:-1]).max() <= 0.501 * unit + 1e-6
            assert unit == pytest.approx(np.abs(wanted[:-1]).max() / 127, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_codes_follow_whatever_rows_and_structure_do(stage, trainer, seed):
    rng, learner = np.random.default_rng(seed), trainer.retrieval.learner
    for number in range(8):
        stage.shards.push(1 + number, video_ids(rng.permutation(ITEMS)[:5].tolist()), 1.0, table="retrieval")
        if rng.random() < 0.5:
            learner.remove(rng.permutation(ITEMS)[: rng.integers(0, 20)])
        if rng.random() < 0.5:
            trainer.place(*rng.permutation(ITEMS)[:10].tolist(), 500 + number)
        if rng.random() < 0.3:
            learner.structure.epoch += 1
        if rng.random() < 0.5:
            trainer.move(500 + number, *rng.permutation(9)[:3].tolist())
        trainer.publish()
        stage.replica.sync.run_round()
        _lie_as_made_from_scratch(stage, trainer)


def test_a_replica_that_skips_versions_follows_the_chain(stage, trainer):
    for number in range(5):
        trainer.place(600 + number)
        trainer.publish()
    stage.replica.sync.run_round()
    assert trainer.equals(stage)
    assert snapshots(stage) == 1


def test_a_replica_behind_the_chain_takes_the_whole_structure(stage, trainer):
    for number in range(40):
        trainer.place(*range(1000 * number, 1000 * number + 50))
        trainer.publish()
    stage.replica.sync.run_round()
    assert trainer.equals(stage)
    assert snapshots(stage) == 2


@pytest.mark.parametrize("damaged", [RETRIEVAL, STRUCTURE])
def test_a_damaged_payload_changes_nothing_and_the_next_round_is_whole(stage, trainer, damaged):
    before, version = stage.replica.parameters.retrieval, stage.replica.parameters.version
    trainer.retrieval.restore(trainer.retrieval.saved())
    trainer.move(100, 7, 8, 9)
    stage.replica.parameters._updates.forget()
    trainer.publish(damage=damaged)
    stage.shards.push(1, video_ids(ITEMS), 1.0, table="retrieval")
    with pytest.raises(RoundError):
        stage.replica.sync.run_round()
    assert stage.replica.parameters.retrieval is before
    assert stage.replica.parameters.version == version
    # rows alone go on, with the structure and the ranker of one version
    stage.replica.sync.run_round(dense=False)
    assert stage.replica.parameters.retrieval.learned is before.learned
    assert stage.replica.parameters.version.dense == version.dense
    trainer.retrieval.restore(trainer.retrieval.saved())
    trainer.publish()
    stage.replica.sync.run_round()
    assert trainer.equals(stage)


def test_a_ranker_that_does_not_load_leaves_the_structure_as_it_was(stage, trainer):
    before = stage.replica.parameters.retrieval
    trainer.move(100, 7, 8, 9)
    trainer.publish(ranker=False)
    stage.shards.publish(trainer.version, payload=b"\x90")
    with pytest.raises(PayloadError):
        stage.replica.sync.run_round()
    stage.replica.sync.run_round(dense=False)
    assert stage.replica.parameters.retrieval.learned is before.learned
    trainer.publish()
    stage.replica.sync.run_round()
    assert trainer.equals(stage)


def test_a_version_that_is_half_published_is_not_taken(stage, trainer):
    before = stage.replica.parameters.version
    trainer.place(700)
    trainer.publish()
    trainer.publish(ranker=False)
    with pytest.raises(StructureError, match="version of the ranker"):
        stage.replica.sync.run_round()
    assert stage.replica.parameters.version == before
    stage.shards.publish(trainer.version)
    stage.replica.sync.run_round()
    assert trainer.equals(stage)


def test_two_structures_of_one_version_are_told_apart_by_their_digest(stage, trainer):
    """A trainer that was restored gives the version that the replica is at to other contents."""
    restored = Trainer(stage, version=trainer.version)
    restored.place(*ITEMS)
    trainer.move(100, 7, 8, 9)
    trainer.publish()
    stage.replica.sync.run_round()
    restored.version = trainer.version
    restored.move(101, 4, 5, 6)
    structure = restored.retrieval.learner.structure
    assert structure.version == stage.replica.parameters.retrieval.learned.view.version
    restored.publish()
    stage.replica.sync.run_round()
    assert restored.equals(stage)
    assert snapshots(stage) == 2


def test_another_epoch_of_the_structure_is_taken_whole(stage, trainer):
    rolled = Trainer(stage, version=trainer.version)
    rolled.retrieval.learner.structure.epoch = 1
    rolled.place(*ITEMS[:10])
    rolled.publish()
    stage.replica.sync.run_round()
    assert rolled.equals(stage)
    assert stage.replica.parameters.retrieval.learned.view.epoch == 1


def test_a_rollback_of_shards_and_trainer_is_followed_to_an_earlier_version(stage, trainer):
    for _ in range(4):
        trainer.place(800 + trainer.version)
        trainer.publish()
    stage.replica.sync.run_round()
    rolled = Trainer(stage)
    rolled.place(*ITEMS[:20])
    for shard in range(2):
        stage.shards.restart(shard)
    rolled.publish()
    stage.clock.move(1)
    stage.replica.sync.tick()
    stage.replica.sync.tick()
    assert stage.replica.parameters.version.dense == 1
    assert rolled.equals(stage)


def test_a_profile_that_changes_changes_the_item_s_vector(stage, trainer):
    before = stage.replica.parameters.retrieval.reranker.vectors[0].copy()
    slot = next(s.slot for s in CONFIG.features.slots if s.source == "item.author")
    stage.learn(item(100).__class__("item", 100, NOW + 1, {"author": (77,)}, {}))
    stage.shards.push(1, [feature_id(slot, 77)], 1.0, table="retrieval")
    stage.replica.sync.run_round(dense=False)
    after = stage.replica.parameters.retrieval.reranker.vectors
    assert not np.allclose(after[0], before)
    encoded = stage.intake.catalogue.item(100)
    rows = [
        stage.shards.vector(i, "retrieval") for slot in range(len(encoded.ids)) for i in encoded.slot(slot)
    ]
    np.testing.assert_allclose(after[0], np.sum(rows, axis=0)[:-1], rtol=1e-4, atol=1e-6)


def test_feeds_lead_with_what_was_retrieved_for_the_user_s_history(stage, trainer):
    stage.learn(did(7, "long_view", 100, 101), did(8, "like", 120))
    stage.learn()
    found = stage.replica.retriever.find(7, stage.intake.histories.of(7), 70)
    assert found
    assert set(found) <= set(ITEMS)
    feed = stage.replica.feeds.feed(7, 0, 10)
    by_origin = dict(zip(feed.items, feed.origins, strict=True))
    assert all((item_id in found) == (origin is Origin.RETRIEVED) for item_id, origin in by_origin.items())
    shown = stage.replica.report()["shown"]
    assert shown["retrieved"] == sum(o is Origin.RETRIEVED for o in feed.origins)
    assert sum(shown.values()) == len(feed.items)


def test_where_new_and_popular_items_take_all_places_nothing_is_retrieved():
    serving = msgspec.structs.replace(CONFIG.serving, recent_share=0.5, popular_share=0.5)
    stage = Stage(msgspec.structs.replace(CONFIG, serving=serving))
    stage.learn(*[item(i) for i in ITEMS])
    trainer = Trainer(stage)
    trainer.place(*ITEMS)
    trainer.publish()
    stage.replica.sync.run_round()
    assert len(stage.replica.feeds.feed(7, 0, 10).items) == 10
    assert stage.replica.report()["shown"]["retrieved"] == 0


def test_what_is_retrieved_are_the_best_by_brute_force_where_the_beam_covers_everything(stage, trainer):
    served = stage.replica.parameters.retrieval
    user = served.user([100, 105, 9999, 1 << 60], None)
    with torch.no_grad():
        vectors = torch.from_numpy(served.reranker.vectors[[0, 5]])
        wanted = trainer.retrieval.module.users(vectors, torch.zeros(1, dtype=torch.int64))
    np.testing.assert_allclose(user, wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_a_user_s_own_vector_is_of_the_round_of_what_it_is_searched_with(monkeypatch):
    retrieval = msgspec.structs.replace(RETRIEVED, user_id=True)
    stage = Stage(msgspec.structs.replace(CONFIG, retrieval=retrieval))
    stage.learn(*[item(i) for i in ITEMS])
    trainer = Trainer(stage, Retrieval(stage.replica.config, retrieval))
    trainer.place(*ITEMS)
    trainer.publish()
    stage.replica.sync.run_round()
    parameters, searched = stage.replica.parameters, []
    read = parameters.read

    def read_after_a_round(ids):
        trainer.publish()
        stage.replica.sync.run_round()
        return read(ids)

    def noted(weights, *rest, **more):
        searched.append(weights)
        return retrieve(weights, *rest, **more)

    monkeypatch.setattr(parameters, "read", read_after_a_round)
    monkeypatch.setattr("serving.retrieval.retrieve", noted)
    assert stage.replica.retriever.find(7, stage.intake.histories.of(7), 5)
    assert searched[0] is parameters.retrieval.learned.beam


def test_a_user_s_own_vector_is_that_of_the_feature_id_that_is_logged():
    def shared(slot):
        return msgspec.structs.replace(slot, ids_of="video") if slot.source == "user.id" else slot

    features = msgspec.structs.replace(CONFIG.features, slots=tuple(map(shared, CONFIG.features.slots)))
    retrieval = msgspec.structs.replace(RETRIEVED, user_id=True)
    stage = Stage(msgspec.structs.replace(CONFIG, features=features, retrieval=retrieval))
    (user,) = [s for s in features.slots if s.source == "user.id"]
    asked: list[int] = []

    def read(ids):
        asked.extend(ids[RETRIEVED.table].tolist())
        return parameters(ids)

    parameters = stage.replica.parameters.read
    stage.replica.parameters.read = read
    stage.replica.retriever.find(7, {}, 5)
    context = stage.replica.feeds._builder.build(
        stage.intake.catalogue.user(7), Moment(NOW, 0, {}), []
    ).context
    logged = next(column for column in context if column.slot == user.slot)
    assert asked == logged.values().tolist()


def test_without_a_structure_feeds_are_popular_and_recent_items():
    stage = Stage()
    stage.learn(*[item(i) for i in ITEMS], did(7, "like", 110))
    stage.learn()
    stage.shards.publish(4)
    stage.replica.sync.run_round()
    feed = stage.replica.feeds.feed(7, 0, 10)
    assert feed.version.dense == 4
    assert Origin.RETRIEVED not in feed.origins
    assert stage.replica.report()["retrieval"]["items"] == 0


def test_the_log_says_where_each_item_came_from(stage, trainer):
    stage.replica.outboxes.start()
    feed = stage.replica.feeds.feed(7, 0, 10)
    stage.replica.outboxes.stop(10)
    (log,) = stage.logs.records
    assert list(log.origins) == [int(origin) for origin in feed.origins]
    assert log.problem() is None

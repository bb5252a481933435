"""Retrieval in the trainer: it learns in the stream, and comes back from anywhere as if nothing had happened."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dense import RANKER, dump_payload
from models.retrieval.beam import search
from models.retrieval.items import packed_row
from models.retrieval.shipping import RETRIEVAL, STRUCTURE, Follower, decode_shipment
from models.retrieval.sightings import SavedSightings
from parameter_server.shard import Shard
from schema.config_file import parse_config
from schema.errors import ConfigError
from schema.ids import feature_id
from schema.records import Features, IdColumn, column
from tests.trainer import make
from tests.trainer.fakes import Killed
from tests.trainer.test_loop import stream, world
from trainer.arrivals import MOST, Arrival, Arrived
from trainer.engagements import EngagementReader
from trainer.pieces import Piece, PieceRows, piece
from trainer.retrieval import Retrieval

CLUSTERS, EACH = 12, 25


class Catalogue:
    """Items that nobody has seen, from the beginning in every life."""

    def __init__(self) -> None:
        self._waiting = [
            Arrival(i, packed_row([column([feature_id(2, i)], "<u8")])) for i in range(1000, 1600)
        ]

    def take(self, known: Callable[[int], bool]) -> Arrived:
        fresh = [a for a in self._waiting if not known(a.item)]
        return Arrived.of(fresh[:MOST])


def learned(trainer) -> tuple[bytes, bytes]:
    """All of retrieval but how well it found, and the optimizer's moments."""
    retrieval = trainer._learner.retrieval
    optimizer = trainer._learner.optimizer.state_dict()["state"]
    moments = b"".join(v.numpy().tobytes() for s in optimizer.values() for v in s.values())
    saved = msgspec.structs.replace(retrieval.saved(), module=dump_payload(retrieval.module))
    return msgspec.msgpack.encode(saved), moments


@given(
    seed=st.integers(0, 3),
    kills=st.lists(st.integers(1, 100), max_size=4, unique=True).map(tuple),
    expiry=st.sampled_from([None, 0.5, 3.0]),
)
@settings(max_examples=8)
def test_a_run_killed_anywhere_has_learned_what_one_that_never_was_has(seed, kills, expiry):
    """Vectors do not learn here, so gradients do not depend on what was pushed, and all must be equal."""
    messages, outcomes = stream(seed), []
    retrieval = make.RETRIEVAL | {"item_expiry_seconds": expiry}
    for at in ((), kills):
        with (
            tempfile.TemporaryDirectory() as folder,
            world(Path(folder), messages, at, retrieval=retrieval, arrivals=Catalogue) as made,
        ):
            outcomes.append(learned(made.to_the_end()))
    assert outcomes[0] == outcomes[1]


def test_a_checkpoint_holds_all_of_it(tmp_path):
    with world(tmp_path, stream(1), retrieval=make.RETRIEVAL, arrivals=Catalogue) as made:
        before = made.life()
        after = made.start()
        assert learned(before) == learned(after)
        retrieval = after._learner.retrieval
        assert retrieval.learner.placed_once
        assert len(retrieval.learner.structure) == 9 + 600


def test_points_that_have_only_what_changed_hold_all_of_it(tmp_path):
    with world(tmp_path, stream(1), retrieval=make.RETRIEVAL, arrivals=Catalogue, recovery_seconds=1) as made:
        before = made.start()
        while before.advance():
            if before.state.counters.step % 3 == 0:
                before.point()
        before.point()
        assert made.store is not None
        newest = made.store.points()[-1]
        assert newest.before, "the newest point follows others"
        sizes = [made.store._path(name).stat().st_size for name in (newest.before[0], newest.state)]
        assert sizes[1] < sizes[0]
        after = made.start()
        assert learned(before) == learned(after)


def test_a_checkpoint_without_retrieval_does_not_fit_a_configuration_with_it(tmp_path):
    with world(tmp_path, stream(1)) as made:
        made.life()
    with (
        world(tmp_path, stream(1), retrieval=make.RETRIEVAL) as made,
        pytest.raises(Exception, match="does not fit the configuration"),
    ):
        made.start()


def test_weights_and_structure_are_published_before_the_ranker_of_their_version(tmp_path):
    with world(tmp_path, stream(2), retrieval=make.RETRIEVAL) as made:
        trainer = made.life()
        trainer._publish_now()
        names = [name for name, *_ in made.server.dense]
        assert names[:3] == [STRUCTURE, RETRIEVAL, RANKER]
        assert set(names[3:]) <= {STRUCTURE, RETRIEVAL, RANKER}
        by_name = {name: version for name, version, *_ in made.server.dense}
        assert by_name[RETRIEVAL] == by_name[RANKER] == trainer.state.counters.step


def test_what_the_catalogue_tells_is_in_the_journal(tmp_path):
    """A trainer that dies with a step in the journal takes that step's arrivals again, whatever comes then."""
    with world(tmp_path, stream(0), (20,), retrieval=make.RETRIEVAL, arrivals=Catalogue) as made:
        with pytest.raises(Killed):
            made.life()
        made.arrivals = None
        trainer = made.start()
        assert trainer.state.counters.replayed_steps > 0
        arrived = sum(i >= 1000 for i in trainer._learner.retrieval.learner.structure.item_ids().tolist())
        assert arrived == min(600, MOST * trainer.state.counters.step)


def _request(offset: int, at: float) -> Piece:
    """Rows of items 10 + (offset, offset + 1, offset + 2) % 9, shown `at` seconds."""
    sample = make.block(offset, event_time=int(1000 * at))
    found = piece(sample, sample.mask)
    assert found is not None
    return found


def _learner(expiry: float | None) -> Retrieval:
    config = make.config(retrieval=make.RETRIEVAL | {"item_expiry_seconds": expiry})
    assert config.retrieval is not None
    return Retrieval(config, config.retrieval)


def _step(retrieval: Retrieval, step: int, *pieces: Piece, arrived: Arrived | None = None) -> list[int]:
    """The items on the structure after a step."""
    wanted = retrieval.prepare(PieceRows(pieces), step, arrived or Arrived())
    retrieval.learn(wanted, np.zeros((len(wanted.parts.ids), make.DIM), np.float32))
    return sorted(
        retrieval.learner.structure.item_ids()[retrieval.learner.structure.item_ids() >= 0].tolist()
    )


def test_items_that_nobody_has_been_shown_for_too_long_leave_and_may_come_back():
    retrieval = _learner(160.0)
    arrived = Arrived.of([Arrival(1000, packed_row([column([feature_id(2, 1000)], "<u8")]))])
    assert _step(retrieval, 1, _request(0, 1000), arrived=arrived) == [10, 11, 12, 1000]
    assert _step(retrieval, 2, _request(1, 1100)) == [10, 11, 12, 13, 1000]
    assert _step(retrieval, 3, _request(2, 1160)) == [10, 11, 12, 13, 14, 1000]
    assert _step(retrieval, 4, _request(2, 1171)) == [11, 12, 13, 14]
    assert _step(retrieval, 5, _request(3, 1271)) == [12, 13, 14, 15]
    structure = retrieval.learner.structure
    assert structure.remembers(10)
    assert structure.remembers(1000)
    assert not structure.remembers(1001)
    assert _step(retrieval, 6, _request(0, 1280)) == [10, 11, 12, 13, 14, 15]
    assert retrieval.learner.scores.weights[structure.rows_of(np.array([10]))] <= 1


def test_who_leaves_is_forgotten_by_what_takes_its_row():
    retrieval = _learner(100.0)
    _step(retrieval, 1, _request(0, 1000))
    counted = retrieval._frequencies.total
    _step(retrieval, 2, _request(3, 1000))
    _step(retrieval, 3, _request(3, 1101))
    structure = retrieval.learner.structure
    assert structure.rows_of(np.array([10, 11, 12])).tolist() == [-1, -1, -1]
    assert retrieval._frequencies.counts[structure._free].sum() == 0
    assert retrieval._frequencies.total == pytest.approx(retrieval._frequencies.counts.sum())
    assert (retrieval.learner.scores.weights[structure._free] == 0).all()
    _step(retrieval, 4, _request(6, 1102))
    assert structure.rows == 6
    assert counted > 0


def test_one_clock_that_is_wrong_makes_nothing_old():
    retrieval = _learner(100.0)
    _step(retrieval, 1, _request(0, 1000))
    pieces = [_request(3, 1010), _request(3, 9e9), _request(3, 1011)]
    assert _step(retrieval, 2, *pieces) == [10, 11, 12, 13, 14, 15]


def test_without_an_expiry_items_stay():
    retrieval = _learner(None)
    _step(retrieval, 1, _request(0, 1000))
    assert _step(retrieval, 2, _request(3, 9e9)) == [10, 11, 12, 13, 14, 15]


def test_what_leaves_reaches_a_copy_as_a_removal_of_the_same_payload():
    retrieval, copy = _learner(100.0), Follower(16, 2)
    for step, (offset, at) in enumerate([(0, 1000), (3, 1050), (3, 1101), (6, 1160)], 1):
        _step(retrieval, step, _request(offset, at))
        payloads = dict(retrieval.payloads())
        copy.follow(decode_shipment(payloads[RETRIEVAL]), lambda: payloads[STRUCTURE])  # noqa: B023
        assert copy.structure.digest() == retrieval.learner.structure.digest()
    assert copy.snapshots == 1
    assert 10 not in copy.structure
    assert 16 in copy.structure


def test_a_checkpoint_of_before_items_expired_says_that_all_were_seen_just_now():
    old, new = _learner(None), _learner(100.0)
    _step(old, 1, _request(0, 1000))
    new.restore(msgspec.structs.replace(old.saved(), sightings=SavedSightings()))
    assert _step(new, 2, _request(3, 5000)) == [10, 11, 12, 13, 14, 15]
    assert _step(new, 3, _request(3, 5101)) == [13, 14, 15]


@pytest.mark.parametrize("seconds", [0, -5])
def test_an_expiry_that_is_none_is_refused(seconds):
    with pytest.raises(ConfigError, match="item_expiry_seconds"):
        make.config(retrieval=make.RETRIEVAL | {"item_expiry_seconds": seconds})


def test_what_a_batch_says():
    config = make.config(retrieval=make.RETRIEVAL)
    blocks = [make.block(offset, user=offset) for offset in range(4)]
    pieces = [p for b in blocks if (p := piece(b, b.mask))]
    read = EngagementReader(config, config.retrieval).read(PieceRows(pieces))
    clicked = [b.item_ids()[b.label_matrix()[:, 0] > 0].tolist() for b in blocks]
    active = [i for i, items in enumerate(clicked) if items]
    assert read.engaged.tolist() == [item for i in active for item in clicked[i]]
    assert [active[u] for u in read.users] == [i for i in active for _ in clicked[i]]
    assert read.shown.tolist() == sorted({i for b in blocks for i in b.item_ids().tolist()})
    assert read.contents[:, 0].tolist() == [feature_id(2, i) for i in read.shown.tolist()]
    assert not read.contents[:, 1:].any()
    for place, i in enumerate(active):
        history = [v % (1 << 48) for v in blocks[i].features.context[1].values().tolist()]
        assert read.history[read.owners == place].tolist() == history


def test_a_batch_without_engagements_places_its_items_and_teaches_nothing():
    config = make.config(retrieval=make.RETRIEVAL)
    retrieval = Retrieval(config, config.retrieval)
    sample = msgspec.structs.replace(make.block(0), labels=column(np.zeros((3, 2)), "<f4"))
    only = piece(sample, sample.mask)
    wanted = retrieval.prepare(PieceRows([only]), 1, Arrived())
    rows = np.zeros((len(wanted.parts.ids), make.DIM), np.float32)
    assert retrieval.learn(wanted, rows) is None
    assert sorted(retrieval.learner.structure.item_ids().tolist()) == sorted(sample.item_ids().tolist())
    assert retrieval.report()["recent"]["recall"] is None


def test_rows_that_are_not_finite_teach_nothing():
    config = make.config(retrieval=make.RETRIEVAL)
    retrieval = Retrieval(config, config.retrieval)
    sample = msgspec.structs.replace(make.block(0), labels=column(np.ones((3, 2)), "<f4"))
    wanted = retrieval.prepare(PieceRows([piece(sample, sample.mask)]), 1, Arrived())
    rows = np.full((len(wanted.parts.ids), make.DIM), np.nan, np.float32)
    assert retrieval.learn(wanted, rows) is None
    assert all(p.grad is None for p in retrieval.module.parameters())


class Tastes:
    """Users who like one cluster of items, and click what they like of a few of it and a few others."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(5)
        self._popular = self._rng.permutation(CLUSTERS * EACH)

    def batch(self, requests: int) -> PieceRows:
        return PieceRows([self._request() for _ in range(requests)])

    def _request(self) -> Piece:
        rng = self._rng
        cluster = int(rng.integers(CLUSTERS))
        mine = cluster * EACH + rng.permutation(EACH)
        items = np.concatenate([mine[:3], rng.integers(0, CLUSTERS * EACH, 3)])
        likes = (items // EACH == cluster).astype(np.float32)
        context = [IdColumn(1, column([feature_id(1, 1)], "<u8")), _history(mine[3:8].tolist())]
        own = IdColumn(2, column([feature_id(2, int(i)) for i in items], "<u8"))
        features = Features(tuple(context), (own,), item_dense=column(np.zeros(6), "<f4"))
        labels = np.stack([likes, np.zeros(6, np.float32)], axis=1)
        places = column(range(6), "<u2")
        every, kept = b"\x01" * 12, bytes(24)
        return Piece(1, 0, 1, 1, column(items, "<i8"), places, features, column(labels, "<f4"), every, kept)


def _history(items: list[int]) -> IdColumn:
    return IdColumn(3, column([feature_id(3, i) for i in items], "<u8"), column([len(items)], "<u2"))


@pytest.fixture(scope="module")
def taught() -> Retrieval:
    """Taught by 250 batches, through the rows of a real shard."""
    settings_ = msgspec.to_builtins(make.config(retrieval=make.RETRIEVAL))
    settings_["retrieval"] |= {"nodes": 10, "beam": 6, "hidden": 16, "negatives": 32, "scored_paths": 40}
    settings_["retrieval"] |= {"score_beam": 100, "placement_rows": 1000, "penalty": 0.01, "pool": "sqrtn"}
    settings_["retrieval"] |= {"learning_rate": 0.01, "score_decay": 0.98}
    settings_["parameter_server"]["shards"] = [{"port": 1, "ops_port": 2}]
    settings_["parameter_server"]["tables"] = [
        {"name": "embedding", "dim": 4},
        {"name": "retrieval", "dim": 17, "init_scale": 0.05},
    ]
    config = parse_config(settings_)
    shard, retrieval, tastes = (
        Shard(config.parameter_server, 0),
        Retrieval(config, config.retrieval),
        Tastes(),
    )
    optimizer = torch.optim.Adam(retrieval.module.parameters(), lr=config.retrieval.learning_rate)
    for step in range(1, 251):
        wanted = retrieval.prepare(tastes.batch(30), step, Arrived())
        (rows,) = shard.pull([("retrieval", wanted.parts.ids)])
        found = retrieval.learn(wanted, rows)
        assert found is not None
        shard.push("t", step, {"retrieval": found}, 0, [])
        optimizer.step()
        optimizer.zero_grad()
    return retrieval


def test_it_finds_what_users_will_engage_with_far_better_than_popularity(taught):
    said = taught.report()["recent"]
    assert said["recall"] > 2 * said["recall_of_popular"]
    assert said["items"] < 0.4 * CLUSTERS * EACH


def test_a_new_item_is_put_where_its_likes_are(taught):
    """An item that is made of the same ids as another, and that nobody has seen, lies on paths of its cluster."""
    structure = taught.learner.structure
    other = taught._contents.of(structure.rows_of(np.array([30])))
    tastes = Tastes()
    wanted = taught.prepare(tastes.batch(1), 999, Arrived.of([Arrival(5000, other[0].tolist())]))
    rows = np.zeros((len(wanted.parts.ids), 17), np.float32)
    assert 5000 not in structure
    taught.learn(wanted, rows)
    assert 5000 in structure
    assert (structure.paths_at(structure.rows_of(np.array([5000]))) >= 0).any()
    assert len(search(taught.module.export(), np.zeros((1, 16), np.float32), 5).paths[0]) == 5

"""Rounds: whole or not at all, on time, through shards that fail and restart. The shards are real ones."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from models.dense import HOLD, PayloadError
from parameter_server.dense import DenseVersion
from parameter_server.errors import DeltaError, ParameterServerError
from parameter_server.replica import ReplicaTables
from schema.config import SyncConfig
from serving.freshness import Freshness
from serving.parameters import Parameters
from serving.replica import new_model
from serving.schedule import Change
from serving.stages import Stages
from serving.sync import Synchroniser
from tests.polling import wait_until
from tests.serving.parts import CONFIG, NOW, TABLE, Clock, Shards

IDS = np.arange(1, 41, dtype=np.uint64)


class World:
    def __init__(
        self,
        sparse: float = 1.0,
        dense: float = 3.0,
        freeze_after: float | None = None,
        *,
        guarded: bool = False,
    ) -> None:
        self.clock, self.shards, self.freshness = Clock(), Shards(), Freshness()
        self.stages = Stages()
        self.told = 0
        server = CONFIG.parameter_server
        self.tables = ReplicaTables(server)
        self.parameters = Parameters(self.tables, len(server.shards), [TABLE])
        self.sync = Synchroniser(
            self.shards,
            self.parameters,
            shards=len(server.shards),
            new_model=lambda: new_model(CONFIG),
            config=SyncConfig(sparse_seconds=sparse, dense_seconds=dense),
            guarded=guarded,
            freeze_after=freeze_after,
            freshness=self.freshness,
            stages=self.stages,
            clock=self.clock,
            monotonic=self.clock.monotonic,
        )

    def next_round(self) -> None:
        self.clock.move(10)
        self.sync.tick()

    def guard_says(self, reason: str) -> None:
        self.told += 1
        self.shards.shards[0].dense.put(HOLD, DenseVersion(self.told, 0, reason.encode()))

    def equals_shards(self) -> bool:
        served = {(d.shard, d.clock): d.digest for d in self.parameters.digests()}
        return served == {(s.index, s.digest(TABLE)[0]): s.digest(TABLE)[1] for s in self.shards.shards}


@pytest.fixture
def world() -> World:
    return World()


def test_a_first_round_is_a_snapshot_of_everything(world):
    world.shards.push(1, IDS.tolist(), 0.5)
    world.shards.publish(3, step=1)
    assert not world.sync.ready
    world.sync.tick()
    assert world.sync.ready
    assert world.equals_shards()
    assert world.parameters.dense.version == 3
    assert world.shards.asked == [(0, None), (1, None)]


def test_without_dense_weights_the_rows_are_served_all_the_same(world):
    world.sync.tick()
    assert world.sync.ready
    assert world.parameters.dense is None
    assert world.parameters.version.dense == 0


def test_later_rounds_ask_for_what_changed_when_it_is_due(world):
    world.shards.publish(1)
    assert world.sync.tick() == pytest.approx(1.0)
    world.shards.push(1, IDS.tolist(), 0.5)
    world.shards.publish(2)
    world.shards.asked.clear()
    world.clock.move(0.5)
    assert world.sync.tick() == pytest.approx(0.5)
    assert world.shards.asked == []
    world.clock.move(0.5)
    world.sync.tick()
    assert [since is not None for _, since in world.shards.asked] == [True, True]
    assert world.equals_shards()
    assert world.parameters.dense.version == 1
    world.clock.move(2)
    world.sync.tick()
    assert world.parameters.dense.version == 2


def test_a_failed_round_changes_nothing_is_counted_and_tried_again_soon():
    world = World(sparse=60, dense=60)
    world.shards.push(1, IDS.tolist(), 0.5)
    world.shards.publish(1)
    world.sync.tick()
    before = world.parameters.version, world.parameters.digests()
    world.shards.push(2, IDS.tolist(), 0.5)
    world.shards.publish(2)
    world.shards.away.add(1)
    world.clock.move(60)
    assert world.sync.tick() == pytest.approx(1.0)
    assert (world.parameters.version, world.parameters.digests()) == before
    assert world.sync.state.failed == 1
    assert "away" in world.sync.state.error
    world.shards.away.clear()
    world.clock.move(1)
    world.sync.tick()
    assert world.equals_shards()
    assert world.parameters.version.dense == 2
    assert world.sync.state.error is None


def test_a_damaged_delta_changes_nothing_and_a_snapshot_follows(world):
    world.shards.push(1, IDS.tolist(), 0.5)
    world.sync.tick()
    before = world.parameters.digests()
    world.shards.push(2, IDS.tolist(), 0.5)
    world.shards.publish(5)
    world.shards.damage = lambda delta: replace(delta, chunks=delta.chunks[:-1])
    with pytest.raises(DeltaError, match="chunks"):
        world.sync.run_round()
    assert world.parameters.digests() == before
    assert world.parameters.dense is None
    world.shards.damage = lambda delta: delta
    world.shards.asked.clear()
    world.sync.run_round()
    assert world.shards.asked == [(0, None), (1, None)]
    assert world.equals_shards()


@pytest.mark.parametrize("payload", [b"", b"not dense weights", b"\x90"])
def test_dense_weights_that_do_not_fit_fail_the_round(world, payload):
    world.shards.publish(1)
    world.sync.tick()
    world.shards.publish(2, payload=payload)
    world.shards.push(1, IDS.tolist(), 0.5)
    before = world.parameters.version
    with pytest.raises(PayloadError):
        world.sync.run_round()
    assert world.parameters.version == before


def test_a_shard_with_a_new_epoch_is_taken_whole_and_its_dense_versions_may_go_back(world):
    world.shards.push(1, IDS.tolist(), 0.5)
    world.shards.publish(7)
    world.sync.tick()
    world.shards.restart(0)
    world.shards.push(1, [3, 4], 0.25)
    world.shards.publish(2)
    world.clock.move(1)
    assert world.sync.tick() == 0.0
    assert world.equals_shards()
    assert world.tables.row_counts()[TABLE] < len(IDS)
    world.sync.tick()
    assert world.parameters.dense.version == 2


def test_changes_of_another_epoch_that_are_not_a_snapshot_are_refused(world):
    world.sync.tick()
    world.shards.damage = lambda delta: replace(delta, span=replace(delta.span, epoch=delta.span.epoch + 1))
    with pytest.raises(DeltaError, match="epoch"):
        world.sync.run_round()


def test_a_reader_never_sees_half_a_round(world):
    """Step n moves every row of both shards alike and publishes version n, so a reading says if it is whole."""
    first = world.tables.pull(TABLE, IDS).copy()
    moved = {0: 0.0}
    stop, seen, torn = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            reading = world.parameters.read({TABLE: IDS})
            version = reading.version.dense
            if np.abs(reading.embeddings[TABLE].numpy() - first - moved[version]).max() > 1e-4:
                torn.append(version)
            seen.add(version)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 31):
        world.shards.push(step, IDS.tolist(), 1.0)
        world.shards.publish(step)
        moved[step] = world.shards.vector(IDS[0])[0] - float(first[0, 0])
        world.sync.run_round()
    wait_until(lambda: 30 in seen, 10)
    stop.set()
    reader.join(10)
    assert torn == []
    assert moved[29] - moved[30] > 1e-3


def test_freshness_counts_what_was_learned_since_the_first_snapshot(world):
    world.shards.push(1, IDS.tolist(), 0.5, [NOW - 90_000, NOW - 500])
    world.sync.tick()
    assert world.freshness.summary().count == 0
    world.shards.push(2, IDS.tolist(), 0.5, [NOW - 1000, NOW + 200, NOW + 400])
    world.clock.move(1.5)
    world.sync.tick()
    summary = world.freshness.summary()
    assert (summary.count, summary.p50) == (3, pytest.approx(1.3))


def test_the_thread_runs_rounds_until_it_is_stopped():
    world = World()
    world.shards.away.add(0)
    with pytest.raises(ParameterServerError):
        world.sync.run_round()
    world.shards.away.clear()
    world.sync.start()
    wait_until(lambda: world.sync.ready, 10)
    world.sync.stop(10)
    assert world.shards.closed


def test_a_replica_to_freeze_goes_on_until_so_long_after_its_first_trained_model():
    world = World(freeze_after=10)
    for _ in range(60):
        world.clock.move(1)
        world.sync.tick()
    assert not world.sync.schedule.settings.paused
    world.shards.publish(1)
    world.shards.push(1, IDS.tolist(), 0.5)
    for _ in range(9):
        world.clock.move(1)
        world.sync.tick()
    assert world.equals_shards()
    world.clock.move(5)
    world.sync.tick()
    assert world.sync.state.paused_at == world.clock()
    rounds = world.sync.state.rounds
    world.shards.push(2, IDS.tolist(), 0.5, completed=[world.clock()])
    world.clock.move(60)
    assert world.sync.tick() > 0
    assert world.sync.state.rounds == rounds
    world.sync.run_round()
    assert world.equals_shards(), "a round that is asked for is taken"
    assert world.freshness.summary().count == 0, "but says nothing of freshness"


def test_an_operator_pauses_resumes_and_changes_the_interval():
    world = World(sparse=1, dense=1)
    world.sync.tick()
    settings = world.sync.change(Change(paused=True))
    assert (settings.paused, settings.sparse_seconds) == (True, 1)
    assert world.sync.state.paused_at == NOW
    world.clock.move(30)
    world.sync.tick()
    assert world.sync.state.rounds == 1
    assert world.sync.change(Change(paused=False, sparse_seconds=5)).sparse_seconds == 5
    assert world.sync.state.paused_at is None
    world.sync.tick()
    assert world.sync.state.rounds == 2
    assert world.sync.tick() == pytest.approx(1.0), "dense weights are due as before"
    world.clock.move(4)
    world.shards.asked.clear()
    world.sync.tick()
    assert world.shards.asked == []
    world.clock.move(1)
    world.sync.tick()
    assert len(world.shards.asked) == 2


def test_a_change_wakes_the_thread_at_once():
    world = World(sparse=3600, dense=3600)
    world.sync.start()
    wait_until(lambda: world.sync.state.rounds == 1, 10)
    world.sync.change(Change(sparse_seconds=1800))
    wait_until(lambda: world.sync.state.rounds == 2, 10)
    world.sync.stop(10)


def test_while_the_guard_holds_rows_stay_as_they_are_and_then_go_on():
    world = World(guarded=True)
    world.shards.push(1, IDS.tolist(), 0.5)
    world.sync.tick()
    world.shards.push(2, IDS.tolist(), 0.5)
    world.guard_says("calibration of click is 3")
    world.next_round()
    assert world.sync.state.held == "calibration of click is 3"
    assert world.sync.state.rounds == 1
    assert not world.equals_shards()
    world.guard_says("")
    world.next_round()
    assert world.sync.state.held is None
    assert world.sync.state.rounds == 2
    assert world.equals_shards()


def test_a_replica_that_starts_while_the_guard_holds_serves_what_there_is():
    world = World(guarded=True)
    world.shards.push(1, IDS.tolist(), 0.5)
    world.guard_says("calibration of click is 3")
    world.sync.tick()
    assert world.sync.ready
    assert world.equals_shards()


def test_what_a_guard_that_is_no_longer_configured_said_holds_nothing():
    world = World(guarded=False)
    world.sync.tick()
    world.guard_says("calibration of click is 3")
    world.next_round()
    assert world.sync.state.rounds == 2

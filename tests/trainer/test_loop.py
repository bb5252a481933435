"""The trainer on a topic and a parameter server in memory: every row once, whatever dies when."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.dense import HOLD, RANKER, dump_payload, load_payload
from models.mmoe import MMoE
from runtime.ops import to_json
from schema.codec import TRAINING_SAMPLES, Codec
from schema.config import Config
from schema.records import DeadLetter, column
from tests.trainer.fakes import Clock, FakeLog, FakeServer, FragileStore, Inline, Killed, Killer, Lazy, Slow
from tests.trainer.make import DIM, TASKS, JoinerModel, block, config, pairs_of
from trainer.arrivals import Arrivals
from trainer.errors import RecoveryError, RollBack, ShardReset
from trainer.feed import Feed, Source
from trainer.lane import Lane
from trainer.loop import Trainer
from trainer.messages import MessageReader


@dataclass
class World:
    """All that outlives a trainer."""

    config: Config
    folder: Path
    killer: Killer
    clock: Clock
    log: FakeLog
    server: FakeServer
    letters: list[DeadLetter]
    store: FragileStore | None = None
    executor: Callable[[], Executor] = Inline
    points: Callable[[], Executor] = Inline
    source: Source | None = None
    arrivals: Callable[[], Arrivals] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.store is not None:
            self.store.close()

    def made(self) -> Trainer:
        """A trainer of a new process, the one before having died."""
        self.__exit__()
        self.store = FragileStore(self.folder, self.config.trainer.recovery_points, self.killer)
        feed = Feed(self.source or self.log, range(2), self.clock)
        return Trainer(
            self.config,
            feed,
            self.server,
            self.store,
            self.letters.append,
            clock=self.clock,
            lane=Lane(self.executor()),
            executor=self.points(),
            arrivals=None if self.arrivals is None else self.arrivals(),
        )

    def start(self) -> Trainer:
        """A trainer that has recovered."""
        trainer = self.made()
        trainer.recover()
        return trainer

    def life(self) -> Trainer:
        """A trainer, from its start to the end of the topic."""
        trainer = self.start()
        while trainer.advance():
            pass
        trainer.point()
        return trainer

    def to_the_end(self) -> Trainer:
        while True:
            try:
                return self.life()
            except (Killed, ShardReset):
                continue


def world(
    folder: Path,
    messages: dict[int, list[bytes]],
    kills: tuple[int, ...] = (),
    *,
    shard_kills: tuple[int, ...] = (),
    learning: bool = False,
    executor: Callable[[], Executor] = Inline,
    points: Callable[[], Executor] = Inline,
    arrivals: Callable[[], Arrivals] | None = None,
    **trainer: Any,
) -> World:
    defaults = {"baseline": True, "recovery_seconds": 4, "evaluation_window_seconds": 5}
    made = config(folder, **(defaults | trainer))
    clock, killer = Clock(), Killer(kills)
    reader = MessageReader("training_samples", made.features, TASKS)
    log = FakeLog(messages, reader, clock)
    server = FakeServer(killer, clock, learning=learning, shard_killer=Killer(shard_kills))
    return World(made, folder, killer, clock, log, server, [], None, executor, points, arrivals=arrivals)


@pytest.fixture
def make_world(tmp_path) -> Iterator[Callable[..., World]]:
    with ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(world(tmp_path, *args, **more))


def envelopes(records: Sequence[Any], size: int, codec: Codec[Any] = TRAINING_SAMPLES) -> list[bytes]:
    return [codec.encode(records[i : i + size]) for i in range(0, len(records), size)]


def stream(seed: int) -> dict[int, list[bytes]]:
    """Two partitions of envelopes, with repetitions, and some messages that cannot be read."""
    messages = {p: envelopes(JoinerModel(seed + p, 14, p).emit(crashes=1), 3 + p) for p in range(2)}
    messages[0].insert(2, b"nonsense")
    messages[1].insert(1, TRAINING_SAMPLES.encode([]))
    messages[1].insert(1, TRAINING_SAMPLES.encode([block(0, tasks=("other",), partition=1)]))
    return messages


def distinct_pairs(messages: dict[int, list[bytes]]) -> int:
    found: set[tuple[int, int, int, int, int]] = set()
    for payload in (m for partition in messages.values() for m in partition if m != b"nonsense"):
        for sample in TRAINING_SAMPLES.decode(payload):
            if sample.tasks == TASKS:
                found |= pairs_of(sample)
    return len(found)


def scored_pairs(trainer: Trainer) -> int:
    return int(trainer.state.evaluation.overall.metrics.counts().sum())


def dense(trainer: Trainer) -> bytes:
    return dump_payload(trainer._learner.model)


@given(
    seed=st.integers(0, 3),
    kills=st.lists(st.integers(1, 150), max_size=6, unique=True).map(tuple),
    shard_kills=st.lists(st.integers(1, 60), max_size=3, unique=True).map(tuple),
    executor=st.sampled_from([Inline, Lazy]),
    points=st.sampled_from([Inline, Slow]),
)
@settings(max_examples=10)
def test_a_run_killed_anywhere_equals_one_that_never_was(seed, kills, shard_kills, executor, points):
    """Trainer and shards die; the vectors learn. All is as in a run with other recovery points and no kill."""
    messages, clip = stream(seed), 6.0 if seed % 2 else None
    with (
        tempfile.TemporaryDirectory() as folder,
        world(
            Path(folder) / "calm", messages, learning=True, recovery_seconds=7, propensity_clip=clip
        ) as calm,
        world(
            Path(folder) / "wild",
            messages,
            kills,
            shard_kills=shard_kills,
            learning=True,
            executor=executor,
            points=points,
            propensity_clip=clip,
        ) as wild,
    ):
        want, have = calm.to_the_end(), wild.to_the_end()
    assert dense(have) == dense(want)
    assert have.state.positions == want.state.positions
    for mine, its in zip(wild.server.table, calm.server.table, strict=True):
        assert mine.steps == its.steps
        assert mine.clock == its.clock == want.state.counters.step
        assert mine.rows.keys() == its.rows.keys()
        assert all(np.array_equal(mine.rows[row], its.rows[row]) for row in its.rows)
    mine, its = have.report()[0], want.report()[0]
    for volatile in ("restarts_recovered", "samples_per_second", "dense_version"):
        mine.pop(volatile)
        its.pop(volatile)
    assert to_json(mine) == to_json(its)
    assert scored_pairs(have) == distinct_pairs(messages)
    assert have.state.counters.dead_letters == 2


def test_each_kind_of_death_is_met(make_world):
    """Guards the tests above: most of the places that kills are drawn from exist even without restarts."""
    calm = make_world(stream(0))
    calm.to_the_end()
    assert calm.killer.events > 70


def test_replayed_predictions_are_those_of_the_first_time(make_world):
    """The shards return too, so that the rows have not been learned from yet."""
    it = make_world(stream(1), learning=True, recovery_seconds=1000)
    first = it.start()
    for _ in range(6):
        assert first.advance()
    first.drain()
    second = it.start()
    assert second.report()[0]["restarts_recovered"] == 6
    second.drain()
    assert to_json(second.report()[0]["overall"]) == to_json(first.report()[0]["overall"])
    assert second.state.counters.step == first.state.counters.step == 6


def test_a_run_is_a_function_of_its_input_whatever_the_timing(make_world):
    """Fetches see every push but the last, be they done at once, late, or in a thread of their own."""
    found = set()
    for executor in (Inline, Lazy, lambda: ThreadPoolExecutor(1)):
        with (
            tempfile.TemporaryDirectory() as folder,
            world(Path(folder), stream(2), learning=True, executor=executor) as it,
        ):
            trainer = it.to_the_end()
            trainer.close()
            rows = sorted((r, v.tobytes()) for shard in it.server.table for r, v in shard.rows.items())
            found.add((dense(trainer), tuple(rows)))
    assert len(found) == 1


def test_a_step_sees_every_push_but_the_last(make_world):
    it = make_world({0: envelopes([block(i) for i in range(6)], 1), 1: []}, learning=True, batch_rows=3)
    pushed_at_pull: list[int] = []
    pull = it.server.pull

    def watched(table, ids):
        pushed_at_pull.append(it.server.table[0].clock)
        return pull(table, ids)

    it.server.pull = watched
    it.to_the_end()
    assert pushed_at_pull == [0, 0, 1, 2, 3, 4]


def watched_calls(it: World) -> list[tuple[str, int]]:
    """What the server is asked, and the clock of its shards then, as it goes on."""
    calls: list[tuple[str, int]] = []

    def watch(name: str) -> None:
        asked = getattr(it.server, name)

        def noting(*args: Any, **more: Any) -> Any:
            calls.append((name, it.server.table[0].clock))
            return asked(*args, **more)

        setattr(it.server, name, noting)

    for name in ("pull", "push", "push_and_pull"):
        watch(name)
    return calls


def test_a_push_goes_with_the_fetch_that_is_to_see_it(make_world):
    it = make_world({0: envelopes([block(i) for i in range(6)], 1), 1: []}, batch_rows=3)
    trainer = it.start()
    calls = watched_calls(it)
    while trainer.advance():
        pass
    exchange = [("push_and_pull", 0), ("push", 0), ("pull", 1)]
    assert calls[:5] == [("pull", 0), ("pull", 0), *exchange]
    assert [name for name, _ in calls].count("push_and_pull") == 4
    assert calls[-1] == ("push", 5), "the last has nothing to go with"


def test_a_push_does_not_wait_for_samples_that_are_not_there_yet(make_world):
    it = make_world({0: envelopes([block(i) for i in range(2)], 1), 1: []}, batch_rows=3)
    trainer = it.start()
    calls = watched_calls(it)
    for _ in range(2):
        assert trainer.advance()
    assert calls == [("pull", 0), ("pull", 0)]
    more = it.log.get
    first: list[list[tuple[str, int]]] = []

    def waiting(timeout: float) -> Any:
        if timeout > 0:
            first.append(list(calls))
        return more(timeout)

    it.log.get = waiting
    trainer.advance()
    assert first[0] == [("pull", 0), ("pull", 0), ("push", 0)]


def test_a_shard_that_came_back_is_noticed_by_an_exchange(make_world):
    it = make_world(
        {0: envelopes([block(i) for i in range(6)], 6), 1: []}, batch_rows=3, recovery_seconds=1000
    )
    trainer = it.start()
    for _ in range(2):
        assert trainer.advance()
    it.server.table[1].become(it.server.table[1].named["point-trainer-0-00000001"])
    with pytest.raises(ShardReset, match="shard 1 came back in epoch 2"):
        trainer.advance()
    again = it.to_the_end()
    assert again.report()[0]["restarts_recovered"] == 2
    assert again.report()[0]["samples_trained"] == 18


def test_unusable_messages_become_dead_letters(make_world):
    it = make_world(stream(0))
    report = it.to_the_end().report()[0]
    assert report["dead_letters"] == 2
    assert {(d.topic, d.partition, d.offset, d.index, d.reason) for d in it.letters} == {
        ("training_samples", 0, 2, 0, "version"),
        ("training_samples", 1, 1, 0, "block"),
    }


def test_a_report_has_the_fields_that_others_read(make_world):
    trainer = make_world(stream(0)).to_the_end()
    report = trainer.report()[0]
    assert set(report) >= {
        "step",
        "samples_trained",
        "duplicates_dropped",
        "dead_letters",
        "samples_per_second",
        "dense_version",
        "restarts_recovered",
        "tasks",
        "overall",
        "period",
        "baseline",
        "windows",
    }
    assert set(report["overall"]) == {"rows", "auc", "normalised_entropy", "calibration", "log_loss"}
    assert set(report["overall"]["auc"]) == set(TASKS)
    assert report["samples_trained"] == report["overall"]["rows"] == report["baseline"]["overall"]["rows"]
    assert sum(window["rows"] for window in report["windows"]) == report["samples_trained"]
    assert report["duplicates_dropped"] > 0


def test_a_batch_that_is_not_finite_trains_nothing_and_is_passed(make_world):
    # one of the two labels is wrong, whatever is predicted, and the square of its gradient overflows
    like = block(1, (0, 1))
    features = msgspec.structs.replace(like.features, item_dense=column([3e38, 3e38], "<f4"))
    labels = column([[1, 1], [0, 0]], "<f4")
    poison = msgspec.structs.replace(like, features=features, labels=labels)
    messages = {0: envelopes([block(0), block(0, index=1)], 2), 1: envelopes([block(2, partition=1)], 1)}
    messages[0].append(TRAINING_SAMPLES.encode([poison, block(2), block(3)]))
    it = make_world(messages)
    trainer = it.to_the_end()
    report = trainer.report()[0]
    assert report["refused_rows"] > 0
    assert report["samples_trained"] + report["refused_rows"] == 17
    assert np.isfinite(np.concatenate([np.stack(list(s.rows.values())) for s in it.server.table])).all()
    assert all(bool(torch.isfinite(p).all()) for p in trainer._learner.model.parameters())


@pytest.mark.parametrize("at", [1, 3])
def test_a_shard_that_came_back_is_noticed_at_the_next_push_or_look(make_world, at):
    it = make_world(stream(2), recovery_seconds=1000)
    trainer = it.start()
    for _ in range(at):
        assert trainer.advance()
    it.server.table[1].become(it.server.table[1].named["point-trainer-0-00000001"])
    with pytest.raises(ShardReset, match="shard 1 came back in epoch 2"):
        trainer.drain()
    again = it.start()
    assert it.server.table[1].epoch == it.server.table[0].epoch + 1 == 3
    assert again.report()[0]["restarts_recovered"] == at


def test_an_idle_trainer_notices_a_shard_that_came_back(make_world):
    it = make_world(stream(2))
    trainer = it.to_the_end()
    it.server.table[0].epoch += 1
    it.clock.now += 10
    with pytest.raises(ShardReset, match="shard 0"):
        trainer.advance()


def test_a_rollback_goes_on_from_an_earlier_point_without_the_steps_since(make_world):
    it = make_world(stream(1), learning=True, recovery_seconds=1000)
    trainer = it.start()
    points = []
    for _ in range(3):
        for _ in range(2):
            assert trainer.advance()
        points.append(trainer.point())
    trainer.roll_back(points[0].number)
    with pytest.raises(RollBack) as raised:
        trainer.advance()
    assert it.store is not None
    made = it.store.roll_back(raised.value.number)
    assert (made.number, made.returned_to) == (points[2].number + 1, points[0].number)
    again = it.start()
    assert again.state.counters.step == points[0].step == 2
    assert again.state.positions == points[0].offsets
    assert [shard.steps["trainer-0"] for shard in it.server.table] == [2, 2]
    assert [shard.epoch for shard in it.server.table] == [2, 2]
    while again.advance():
        pass
    with tempfile.TemporaryDirectory() as folder, world(Path(folder), stream(1), learning=True) as calm:
        assert scored_pairs(again) == scored_pairs(calm.to_the_end())


def test_a_point_of_an_untouched_run_leaves_the_shards_as_they_are(make_world):
    it = make_world(stream(1), learning=True)
    it.to_the_end()
    epochs = [shard.epoch for shard in it.server.table]
    again = it.start()
    assert [shard.epoch for shard in it.server.table] == epochs
    assert again.report()[0]["restarts_recovered"] == 0


def test_a_trainer_without_state_goes_on_above_the_shards_steps(make_world):
    it = make_world(stream(0))
    for shard in it.server.table:
        shard.steps["trainer-0"] = 500
    trainer = it.to_the_end()
    assert trainer.state.counters.step > 500
    assert it.server.table[0].clock == trainer.state.counters.step - 500


def test_a_topic_with_other_samples_is_refused(make_world):
    messages = stream(0)
    it = make_world(messages, kills=(40,))
    with pytest.raises(Killed):
        it.life()
    it.log.messages = {0: envelopes([block(0)] * 40, 1), 1: envelopes([block(0, partition=1)] * 40, 1)}
    with pytest.raises(RecoveryError, match="read again"):
        it.life()


def test_the_dense_parameters_are_published_by_step_and_load(make_world):
    it = make_world(stream(0))
    stopped = iter([False] * 4 + [True])
    trainer = it.made()
    trainer.run(lambda: next(stopped))
    name, version, step, payload = it.server.dense[-1]
    assert (name, version, step) == (RANKER, trainer.state.counters.step, trainer.state.counters.step)
    model = MMoE(it.config.model, it.config.features, len(TASKS), DIM)
    load_payload(model, payload)
    assert dump_payload(model) == dense(trainer)
    versions = [version for _, version, _, _ in it.server.dense]
    assert versions == sorted(set(versions))
    assert it.log.committed == trainer.state.positions


def test_an_idle_stream_publishes_and_checkpoints_what_is_new(make_world):
    it = make_world(stream(0))
    trainer = it.to_the_end()
    for _ in range(10):
        assert not trainer.advance()
    assert it.server.dense[-1][1] == trainer.state.counters.step
    assert trainer.report()[0]["dense_version"] == trainer.state.counters.step


def test_a_push_tells_the_newest_event_and_when_samples_were_complete(make_world):
    messages = {0: envelopes([block(i, event_time=1000 * (i + 1)) for i in range(2)], 1), 1: []}
    it = make_world(messages, traces_per_step=1)
    it.to_the_end()
    ((step, newest, (event, completed, joined, trained, trace)),) = it.server.pushes
    assert (step, newest, event, completed, joined, trace) == (1, 2000, 1000, 1005, 1005, 0)
    assert trained > 1_700_000_000_000


def test_the_guard_stops_publishing_says_why_and_resumes_by_command(make_world):
    guard = {"window_rows": 10, "least_positives": 1, "calibration_min": 0.001, "calibration_max": 0.002}
    it = make_world(stream(0), guard=guard)
    trainer = it.start()

    def published(name: str) -> list[tuple[int, bytes]]:
        return [(version, payload) for n, version, _, payload in it.server.dense if n == name]

    while trainer.state.counters.step < 4:
        assert trainer.advance()
    models = len(published(RANKER))
    while trainer.advance():
        pass
    trainer._publish_now()
    assert len(published(RANKER)) == models
    breach = trainer.report()[0]["guard"]["breach"]
    assert "calibration of click" in breach
    assert [payload for _, payload in published(HOLD)] == [b"", breach.encode()], "replicas are told, too"
    assert trainer.resume() == breach
    trainer.advance()
    trainer._publish_now()
    assert published(RANKER)[-1][0] == trainer.state.counters.step
    assert published(HOLD)[-1][1] == b""


def test_a_guard_that_holds_goes_on_holding_after_a_restart(make_world):
    guard = {"window_rows": 10, "least_positives": 1, "calibration_min": 0.001, "calibration_max": 0.002}
    it = make_world(stream(0), guard=guard)
    breach = it.life().state.guard.breach
    assert breach is not None
    assert it.start().state.guard.breach == breach

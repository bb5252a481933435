"""One partition from messages to parcels: against a batch oracle, with bad records, and through crashes."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import dataclass, field
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schema.codec import DEAD_LETTERS, FEATURE_LOGS, TRAINING_SAMPLES, USER_ACTIONS
from schema.records import ActionBatch, Heartbeat
from streaming import heads
from streaming import parcels as parcels_module
from streaming import sampling as sampling_module
from streaming.counts import Counts
from streaming.late import MemoryStore
from streaming.parcels import Blocks
from streaming.partition import Message, Partition, Timing
from streaming.recall import Recalled, absorb_blocks, absorb_logs, found, orphans
from streaming.watermark import Side
from tests.streaming.make import EARLY, HORIZON, RULES, WINDOW, action, feature_log, sampler
from tests.streaming.netview import NetView
from trainer.dedup import DuplicateFilter

DISORDER = 50
TOPICS = ("logs", "actions")
NOW = 10_000_000


class Bench:
    """A partition that reads from two lists of messages and writes to two others, as Kafka would hold them."""

    def __init__(self, logs=(), actions=(), rules=RULES, **sampling):
        self.topics = (logs, actions)
        self.rules = rules
        self.sampling = sampling
        self.samples = []
        self.letters = []
        self.committed = [0, 0]
        self.restart()
        self.bring_back()

    def restart(self, store=None):
        """A new owner, from what was acknowledged, with an empty store or what is on its disk.

        It knows nothing of the past until `recall` and `catch_up`.
        """
        self.counts = Counts()
        self.store = MemoryStore(10_000) if store is None else store
        self.partition = Partition(
            3,
            TOPICS,
            self.rules,
            Timing(DISORDER, 2000),
            sampler=sampler(**self.sampling),
            store=self.store,
            counts=self.counts,
            now=NOW,
        )
        join = self.partition.join
        join.held, join.store_behind, join.whole = True, True, False
        self.read = list(self.committed)
        self.past = list(self.committed)
        self.outgoing = []

    def recall(self):
        """As the new owner's thread does it."""
        closed_below = absorb_blocks(self.store, self.samples)
        chosen, scored = sampler(**self.sampling), []
        if chosen.by_score:
            first = max(0, self.past[0] // sampling_module.STRETCH - 1) * sampling_module.STRETCH
            scored = [
                chosen.score(at, [h for _, h, _ in self.logs_at(at)]) for at in range(first, self.past[0])
            ]
        self.partition.recalled(Recalled([s for s in scored if s], closed_below), NOW)
        self.take()

    def catch_up(self):
        """As the new owner's thread does it."""
        chosen = sampler(**self.sampling)
        for at in range(self.past[Side.FEATURES]):
            absorb_logs(self.store, chosen, at, self.logs_at(at))
        for at in range(self.past[Side.ACTIONS]):
            records = USER_ACTIONS.decode(self.topics[Side.ACTIONS][at])
            self.partition.join.park_again(list(orphans(self.store, self.past[Side.FEATURES], at, records)))
        self.partition.caught_up(list(found(self.store)), NOW)
        self.take()

    def bring_back(self):
        """All of the past that is still to be brought back."""
        if self.partition.join.held:
            self.recall()
        if self.partition.join.store_behind:
            self.catch_up()

    def logs_at(self, offset):
        for index, (packed, record) in enumerate(heads.read(self.topics[Side.FEATURES][offset])):
            yield packed, record, index

    def take(self):
        self.outgoing += self.partition.parcels()

    def step(self, side):
        offset = self.read[side]
        self.read[side] += 1
        self.receive(side, offset, self.topics[side][offset])

    def receive(self, side, offset, value, timestamp=NOW):
        self.read[side] = offset + 1
        self.partition.receive(side, Message(offset, timestamp, value), NOW)
        self.outgoing += self.partition.parcels()

    def deliver(self, count=None):
        """The broker takes the oldest `count` parcels, all by default."""
        count = len(self.outgoing) if count is None else count
        for parcel in self.outgoing[:count]:
            if isinstance(parcel, Blocks):
                self.samples += TRAINING_SAMPLES.decode(parcel.value)
            else:
                self.letters += DEAD_LETTERS.decode(parcel.value)
            self.partition.delivered(parcel)
        del self.outgoing[:count]

    def commit(self):
        for side, offset in self.partition.acknowledged().items():
            assert self.committed[side] <= offset <= self.read[side]
            self.committed[side] = offset

    def finish(self):
        """Read everything, and let the clock close what is open."""
        self.bring_back()
        for side in Side:
            while self.read[side] < len(self.topics[side]):
                self.step(side)
        self.silence()
        self.outgoing += self.partition.parcels()
        self.deliver()
        self.commit()

    def silence(self):
        """Ten seconds in which nothing comes."""
        for at in range(NOW, NOW + 10_000, 1000):
            for side in Side:
                self.partition.clock.drained(side, at)
        self.partition.advance(NOW)

    def view(self):
        """The trainer's view of the samples."""
        view = NetView()
        for block in self.samples:
            view.take(block)
        return view.labels


@dataclass
class Traffic:
    """Two topics in which some logs and some actions come much too late, in whatever order; doubles among them.

    `labels` are those due.
    """

    logs: list = field(default_factory=list)
    actions: list = field(default_factory=list)
    labels: list = field(default_factory=list)


def traffic(rng: random.Random, requests: int, late: float = 0.3, tardy: float = 0.2) -> Traffic:
    made = Traffic()
    logs, actions, delayed = [], [], []
    for i in range(requests):
        moment = 1000 + i * rng.choice((1, 40, 400))
        items = rng.sample(range(20), rng.randint(1, 3))
        scores = [rng.random() for _ in range(2 * len(items))]
        came = moment if rng.random() >= tardy else moment + rng.randrange(HORIZON // 4)
        odds = [odds_of(item) for item in items] if i % 3 else ()
        logs.append((came, feature_log(f"r{i}", moment, items, scores=scores, odds=odds)))
        hits = set()
        for _ in range(rng.randrange(4)):
            item, kind = rng.choice(items), rng.choice(("click", "like", "share", "hover"))
            reach = WINDOW if rng.random() >= late else HORIZON // 10
            done = moment + rng.randrange(reach + 1)
            arrives = done if rng.random() >= late else done + rng.randrange(HORIZON // 10)
            record = ActionBatch(7, (action(f"r{i}", done, item, kind),))
            (actions if arrives == done else delayed).append((arrives, record))
            hits.add((item, {"share": "like"}.get(kind, kind)))
        made.labels += [(f"r{i}", item, t, float((item, t) in hits)) for item in items for t in RULES.tasks]
    made.labels.sort()
    made.logs = envelopes(rng, logs, FEATURE_LOGS)
    made.actions = envelopes(rng, actions + delayed, USER_ACTIONS)
    return made


def odds_of(item):
    """How likely `item` had to be shown, in whatever request."""
    return (item + 1) / 32


def odds_are_those_logged(samples):
    """Whether every row has the propensity of its own, but in requests that were logged without."""
    return all(
        np.frombuffer(block.propensities, "<f4").tolist()
        == ([odds_of(item) for item in block.item_ids().tolist()] if int(block.request_id[1:]) % 3 else [])
        for block in samples
    )


def envelopes(rng, timed, codec):
    """Messages of the records in time order but for the disorder; a double follows soon after its original."""
    arriving = [(time + rng.randrange(DISORDER), i, record) for i, (time, record) in enumerate(timed)]
    arriving += [(at + rng.randrange(200), i, r) for at, i, r in arriving if rng.random() < 0.2]
    records = [record for _, _, record in sorted(arriving, key=lambda a: a[:2])]
    values = []
    while records:
        count = rng.randint(1, 4)
        values.append(codec.encode(records[:count]))
        del records[:count]
    return values


def some_side(rng, bench):
    behind = [s for s in Side if bench.read[s] < len(bench.topics[s])]
    return rng.choice(behind) if behind else None


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.booleans(), st.booleans())
def test_any_interleaving_gives_the_labels_of_the_oracle(seed, requests, early, spills):
    rng = random.Random(seed)
    made = traffic(rng, requests)
    rules = msgspec.structs.replace(EARLY if early else RULES, open_limit=2 if spills else 1000)
    bench = Bench(made.logs, made.actions, rules)
    while (side := some_side(rng, bench)) is not None:
        for _ in range(rng.randint(1, 5)):
            if bench.read[side] < len(bench.topics[side]):
                bench.step(side)
    bench.finish()
    assert bench.view() == made.labels
    assert odds_are_those_logged(bench.samples)
    if not early:
        assert sum(b.late_offset < 0 for b in bench.samples) == requests, "no block twice"
    assert bench.letters == []
    assert bench.committed == [len(made.logs), len(made.actions)]
    assert bench.partition.unacked == 0


def crashed(seed, requests, early, **sampling):
    """Random traffic, and the bench that has joined all of it through a few crashes at random points."""
    rng = random.Random(seed)
    made = traffic(rng, requests)
    bench = Bench(made.logs, made.actions, EARLY if early else RULES, **sampling)
    crashes, disk = 0, None
    while (side := some_side(rng, bench)) is not None:
        bench.step(side)
        if rng.random() < 0.3 and bench.partition.join.held:
            bench.recall()
        elif rng.random() < 0.3 and bench.partition.join.store_behind and not bench.partition.join.held:
            bench.catch_up()
        if rng.random() < 0.3:
            bench.deliver(rng.randint(0, len(bench.outgoing)))
        if rng.random() < 0.2:
            bench.commit()
        if rng.random() < 0.1 and crashes < 4:
            crashes += 1
            older, disk = disk, copy.deepcopy(bench.store)
            # the partition went elsewhere, stayed, or comes back after a while
            bench.restart(rng.choice((None, bench.store, older)))
    bench.finish()
    return made, bench


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans())
def test_crashes_lose_and_double_nothing_in_the_trainers_view(seed, requests, early):
    made, bench = crashed(seed, requests, early)
    assert bench.view() == made.labels
    assert bench.letters == [], "an action that is read again finds its feature log again"
    assert bench.committed == [len(made.logs), len(made.actions)]


SCORED = {"mode": "score", "rate": 0.4, "floor": 0.05}


def keep_probabilities(samples):
    """{(offset, index, row): what every block of it says of log pi}."""
    said = {}
    for block in samples:
        log_keep = np.frombuffer(block.log_keep, "<f4").tolist()
        for row, value in zip(block.row_indices().tolist(), log_keep, strict=True):
            said.setdefault((block.source.offset, block.source.index, row), set()).add(value)
    return said


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_a_row_is_kept_with_the_same_probability_whoever_emits_it(seed, early):
    with mock.patch.object(sampling_module, "STRETCH", 8):
        made, bench = crashed(seed, 60, early, **SCORED)
        calm = Bench(made.logs, made.actions, bench.rules, **SCORED)
        calm.finish()
    assert keep_probabilities(bench.samples) == keep_probabilities(calm.samples)
    assert odds_are_those_logged(bench.samples)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
@example(18, False)  # an early positive below what was called resolved
@example(34, True)
@example(273, False)  # a duplicate taken for the first, before the past was known
@example(1145, True)
def test_crashes_change_no_label_of_a_sampled_stream(seed, early):
    with mock.patch.object(sampling_module, "STRETCH", 8):
        made, bench = crashed(seed, 60, early, **SCORED)
        calm = Bench(made.logs, made.actions, bench.rules, **SCORED)
        calm.finish()
    assert bench.view() == calm.view()


def test_a_duplicate_that_a_new_owner_reads_before_its_past_gives_nothing():
    twice = logs(feature_log("r", 5000))
    bench = Bench([twice], [])
    bench.finish()
    assert bench.committed == [1, 0]
    bench.topics = ([twice, twice], [])
    bench.restart()
    bench.step(Side.FEATURES)
    before = bench.view()
    bench.finish()
    assert bench.view() == before
    assert bench.counts.duplicates == 1
    assert bench.partition.join.open_requests == 0
    assert bench.committed == [2, 0]


def test_what_an_earlier_owner_called_resolved_gets_late_labels_only():
    scores = [0.9, 0.0]
    bench = Bench(
        [logs(feature_log("gone", 5000, [20], scores=scores)), logs(feature_log("kept", 5001, [20], scores=scores))],
        [actions(action("kept", 5002, 20, "click")), actions(action("gone", 5002, 20, "click"))],
        EARLY, mode="score", rate=1e-9, floor=1e-9,
    )  # fmt: skip
    for side, count in ((Side.FEATURES, 2), (Side.ACTIONS, 1)):
        for _ in range(count):
            bench.step(side)
    bench.silence()
    bench.take()
    bench.deliver()
    bench.samples[-1] = msgspec.structs.replace(bench.samples[-1], resolved_below=1)
    bench.restart()
    bench.finish()
    (late,) = [b for b in bench.samples if b.request_id == "gone"]
    assert late.late_offset == 1
    assert bench.committed == [2, 2]


def test_a_dropped_row_that_an_action_brings_back_has_the_probability_of_its_close():
    """Also where nothing of its request was emitted, and the late store was lost."""
    values = [logs(feature_log(f"r{i}", 5000 + i, scores=[0.2 + i / 10, 0.0] * 3)) for i in range(3)]
    bench = Bench(values, [], RULES, mode="score", rate=1e-6, floor=1e-3)
    bench.finish()
    assert bench.samples == []
    assert bench.committed == [3, 0]
    bench.restart()
    bench.bring_back()
    bench.receive(Side.ACTIONS, 0, actions(action("r1", 5100, 20)))
    bench.deliver()
    (late,) = bench.samples
    assert late.row_indices().tolist() == [1]
    assert np.exp(np.frombuffer(late.log_keep, "<f4")) == pytest.approx(1e-3)
    state = bench.store.state("r1")
    assert state.mean == pytest.approx(0.25)


def logs(*records):
    return FEATURE_LOGS.encode(records)


def actions(*some):
    return USER_ACTIONS.encode([ActionBatch(7, some)])


def letters(bench):
    bench.deliver()
    return [(x.topic, x.partition, x.offset, x.index, x.reason) for x in bench.letters]


GOOD = feature_log("good", 5000)
RAGGED = msgspec.structs.replace(feature_log("ragged", 5000), positions=b"\0")
CORRUPT = logs(GOOD)[:-1] + b"\xff"


@pytest.mark.parametrize(
    ("side", "value", "letter"),
    [
        (Side.FEATURES, None, ("logs", 3, 0, -1, "empty")),
        (Side.FEATURES, b"\x07abcdef", ("logs", 3, 0, -1, "version")),
        (Side.FEATURES, CORRUPT, ("logs", 3, 0, -1, "checksum")),
        (Side.FEATURES, actions(action("good", 5000)), ("logs", 3, 0, -1, "schema")),
        (Side.FEATURES, logs(GOOD, RAGGED), ("logs", 3, 0, 1, "invalid_features")),
        (Side.FEATURES, logs(feature_log("f", NOW + 3_600_001)), ("logs", 3, 0, 0, "future_event")),
        (Side.ACTIONS, b"{not json", ("actions", 3, 0, -1, "schema")),
        (Side.ACTIONS, actions(action("f", NOW + 3_600_001)), ("actions", 3, 0, 0, "future_event")),
    ],
)
def test_what_cannot_be_used_goes_to_the_dead_letters(side, value, letter):
    bench = Bench()
    bench.receive(side, 0, value)
    bench.partition.parcels()
    if side is Side.FEATURES and value == logs(GOOD, RAGGED):
        assert bench.partition.join.open_requests == 1, "its neighbour goes on"
    else:
        bench.commit()
        assert bench.committed == [0, 0], "not before the dead letter is delivered"
    assert letters(bench) == [letter]
    assert bench.counts.dead_letters == {letter[-1]: 1}


def test_a_dead_letter_carries_what_can_be_sent_again():
    bench = Bench()
    late = action("r", 5000)
    bench.receive(Side.FEATURES, 0, logs(RAGGED))
    bench.receive(Side.ACTIONS, 0, actions(late))
    bench.receive(Side.ACTIONS, 1, b"garbage")
    bench.finish()
    bench.commit()
    assert bench.committed == [1, 2], "an action without its log is acknowledged long before it is given up"
    bench.receive(Side.FEATURES, 1, FEATURE_LOGS.encode([Heartbeat(5001 + HORIZON + DISORDER)]))
    bench.receive(Side.ACTIONS, 2, USER_ACTIONS.encode([Heartbeat(5001 + HORIZON + DISORDER)]))
    assert bench.store.group("r") is not None
    bench.deliver()
    assert bench.store.group("r") is None
    by_reason = {x.reason: x.payload for x in bench.letters}
    assert FEATURE_LOGS.decode(by_reason["invalid_features"]) == [RAGGED]
    assert USER_ACTIONS.decode(by_reason["unmatched_action"]) == [ActionBatch(7, (late,))]
    assert by_reason["version"] == b"garbage"


def test_a_huge_payload_is_cut(monkeypatch):
    bench = Bench()
    bench.receive(Side.FEATURES, 0, b"\x09" * (1 << 20))
    bench.deliver()
    assert len(bench.letters[0].payload) == parcels_module.PAYLOAD_BYTES


def test_a_future_event_does_not_move_the_watermark():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(GOOD))
    bench.receive(Side.ACTIONS, 0, actions(action("x", NOW + 9_000_000), action("good", 5100)))
    assert bench.partition.clock.value == 5000 - DISORDER


def test_a_heartbeat_moves_it_however_far():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, FEATURE_LOGS.encode([GOOD, Heartbeat(NOW + 9_000_000)]))
    bench.receive(Side.ACTIONS, 0, USER_ACTIONS.encode([Heartbeat(NOW + 9_000_000)]))
    bench.deliver()
    assert [b.request_id for b in bench.samples] == ["good"]
    bench.commit()
    assert bench.committed == [1, 1]
    assert bench.counts.heartbeats == 2


def test_completion_is_the_time_of_the_message_that_closed_it():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(GOOD), timestamp=NOW)
    bench.receive(Side.FEATURES, 1, logs(feature_log("next", 9000)), timestamp=NOW + 1)
    bench.receive(Side.ACTIONS, 0, actions(action("next", 9000)), timestamp=NOW + 7)
    bench.deliver()
    assert [(b.request_id, b.completed_at) for b in bench.samples] == [("good", NOW + 7)]


def test_blocks_name_their_log_and_pass_its_columns_through():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(feature_log("a", 4000), GOOD))
    bench.finish()
    block = bench.samples[1]
    assert (block.source.partition, block.source.offset, block.source.index) == (3, 0, 1)
    assert (block.features, block.items, block.positions) == (GOOD.features, GOOD.items, GOOD.positions)
    assert block.mask_matrix().tolist() == [[1, 1]] * 3
    assert block.row_indices().tolist() == [0, 1, 2]
    assert block.log_keep == bytes(12)


def test_resolved_below_is_the_oldest_log_not_emitted():
    bench = Bench()
    times = (5000, 9000, 5001)
    for offset, time in enumerate(times):
        bench.receive(Side.FEATURES, offset, logs(feature_log(f"r{offset}", time)))
    for offset, time in enumerate((6051, 6052, 11_000)):
        bench.receive(Side.ACTIONS, offset, USER_ACTIONS.encode([Heartbeat(time)]))
    bench.receive(Side.FEATURES, 3, FEATURE_LOGS.encode([Heartbeat(11_000)]))
    bench.deliver()
    assert [(b.source.offset, b.resolved_below) for b in bench.samples] == [(0, 0), (2, 1), (1, 1)]


def test_envelopes_are_bounded_by_count_and_size(monkeypatch):
    bench = Bench()
    for offset in range(150):
        bench.receive(Side.FEATURES, offset, logs(feature_log(f"r{offset}", 5000)))
    monkeypatch.setattr(parcels_module, "ENVELOPE_BYTES", 4096)
    bench.silence()
    ready = bench.partition.parcels()
    assert all(len(p.value) <= 4096 for p in ready)
    assert [b.request_id for p in ready for b in p.blocks] == [f"r{i}" for i in range(150)]
    monkeypatch.undo()
    assert max(len(p.blocks) for p in ready) < parcels_module.ENVELOPE_RECORDS


def test_a_block_too_large_for_kafka_ends_as_a_dead_letter():
    bench = Bench()
    bench.receive(Side.FEATURES, 0, logs(GOOD))
    bench.receive(Side.ACTIONS, 0, actions(action("good", 5100)))
    bench.silence()
    (parcel,) = bench.partition.parcels()
    bench.partition.undeliverable(parcel)
    bench.outgoing += bench.partition.parcels()
    assert letters(bench) == [("logs", 3, 0, 0, "too_large")]
    bench.commit()
    assert bench.committed == [1, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_the_trainers_own_filter_gives_the_oracles_labels(seed, early):
    made, bench = crashed(seed, 40, early)
    had, net = DuplicateFilter(), Counter()
    for block in bench.samples + bench.samples[-7:]:
        saved, had = had.state(), DuplicateFilter()
        had.restore(saved)
        had.begin()
        fresh = had.fresh(block)
        had.trained()
        for at, task in zip(*fresh.nonzero(), strict=True):
            name = (block.request_id, int(block.item_ids()[at]), block.tasks[task])
            net[*name, float(block.label_matrix()[at, task])] += 1
            net[*name, 0.0] -= int(block.retract_matrix()[at, task])
    assert sorted(net.elements()) == made.labels


class CountingStore(MemoryStore):
    """Counts what is asked of it."""

    def __init__(self):
        super().__init__(10_000)
        self.work = Counter()

    def __getattribute__(self, name):
        if name in {"state", "log", "put_state", "put_log", "group", "put_group", "drop_group", "next_group"}:
            object.__getattribute__(self, "work")[name] += 1
        return super().__getattribute__(name)


def test_a_flood_of_garbage_costs_one_letter_a_message_and_nothing_else():
    """A tenth of all messages: the store is asked as often as without, and letters share their envelopes."""
    made = traffic(random.Random(5), 200)
    rng = random.Random(6)

    def flooded(values):
        return [v for value in values for v in ([rng.randbytes(300)] * (rng.random() < 0.1) + [value])]

    benches = []
    for sides in ((made.logs, made.actions), (flooded(made.logs), flooded(made.actions))):
        bench = Bench(*sides)
        bench.restart(CountingStore())
        bench.bring_back()
        bench.finish()
        benches.append(bench)
    calm, flood = benches
    garbage = sum(len(flood.topics[side]) - len(calm.topics[side]) for side in Side)
    assert garbage > 10
    assert flood.view() == calm.view() == made.labels
    assert flood.store.work == calm.store.work
    assert len(flood.letters) == sum(flood.counts.dead_letters.values()) == garbage
    assert flood.committed == [len(values) for values in flood.topics]

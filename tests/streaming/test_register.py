"""Requests that are but slots of the table: against lists of objects, and what becomes of those lifted out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.codec import FEATURE_LOGS
from schema.records import Action, ActionBatch, Heartbeat
from streaming import cells
from streaming.gathering import Gathering
from streaming.heads import pack as packed
from streaming.logs import LogReader
from streaming.register import Register
from streaming.request import State
from streaming.rules import Rules
from streaming.slots import Slots
from tests.streaming.make import RULES, feature_log

pack = msgspec.msgpack.Encoder().encode
LIMIT = 1 << 50
STAMP = (3, 4)


def sheaf_of(*records):
    told = LogReader().read(FEATURE_LOGS.encode(records))
    assert told.sheaf is not None
    return told.sheaf


@dataclass
class One:
    """A request as the register should know it."""

    log: object
    offset: int
    index: int
    hits: int = 0
    last: int = -1
    owed: list[int] = field(default_factory=list)

    @property
    def place(self):
        return self.log.event_time + RULES.window, self.offset, self.index


class Table:
    """A register, what gathers in it, and the requests in it as objects by id."""

    def __init__(self, rules=RULES):
        self.slots = Slots(len(rules.tasks))
        self.register = Register(rules, self.slots)
        self.gathering = Gathering(rules, self.slots)
        self.open, self.closed = {}, {}

    def enter(self, offset, *records, wanted=None):
        sheaf = sheaf_of(*records)
        entered = np.ones(len(records), np.uint8) if wanted is None else np.array(wanted, np.uint8)
        asked = entered.tolist()
        count = self.register.enter(sheaf, offset, entered)
        assert count == sum(entered.tolist())
        first = next((r.event_time for r in records if not isinstance(r, Heartbeat)), 0)
        for index, record in enumerate(records):
            new = asked[index] and not isinstance(record, Heartbeat)
            new = new and record.request_id not in (self.open | self.closed)
            new = new and abs(record.event_time - first) <= RULES.window
            assert entered[index] == new
            if new:
                self.open[record.request_id] = One(record, offset, index)
        return entered

    def act(self, offset, *actions):
        heard = self.gathering.hear(pack([ActionBatch(1, tuple(actions))]), offset, LIMIT)
        odd = 0
        for action in actions:
            one = self.open.get(action.request_id)
            bits = RULES.kinds[action.kind]
            hit = cells.of_item(one.log.items, action.item_id, bits, 2) if one else 0
            if not hit or action.event_time > one.log.event_time + RULES.reach:
                odd += 1
                continue
            one.last = offset
            if hit & ~one.hits:
                one.hits |= hit
                one.owed.append(offset)
        assert len(heard.odd) == odd

    def close(self, watermark):
        closed = self.register.close(watermark, STAMP)
        due = sorted((one for one in self.open.values() if one.place[0] < watermark), key=lambda o: o.place)
        if closed is None:
            assert not due
            return
        told = list(zip(closed.ends, closed.offsets, closed.indexes, strict=True))
        assert told == [one.place for one in due]
        assert closed.rows == [len(one.log) for one in due]
        for slot, one in zip(closed.slots, due, strict=True):
            self.closed[one.log.request_id] = self.open.pop(one.log.request_id)
            assert self.register.find(one.log.request_id) == slot

    def lift(self, request_id):
        one = (self.open | self.closed)[request_id]
        slot = self.register.find(request_id)
        request = self.register.lift(slot)
        assert self.register.find(request_id) == -1
        self.check(request, one)
        assert request.packed == packed(one.log)
        return slot, request

    def check(self, request, one):
        assert (request.request_id, request.event_time) == (one.log.request_id, one.log.event_time)
        assert (request.offset, request.index, request.items) == (one.offset, one.index, one.log.items)
        assert (request.hits, request.last_action) == (one.hits, one.last)
        assert sorted(request.action_offsets or ()) == sorted(one.owed)

    def deliver(self, request_ids):
        """Of closed ones, none of which was lifted out."""
        ones = [self.closed.pop(request_id) for request_id in request_ids]
        slots = [self.register.find(request_id) for request_id in request_ids]
        self.register.facts(slots)
        lifted, entries, gone = self.register.delivered(slots)
        assert not lifted
        assert entries == [entry_of(one) for one in ones]
        assert sorted(gone.actions) == sorted(offset for one in ones for offset in one.owed)
        told = {}
        for offset, count, last in gone.logs:
            before = told.get(offset, (0, -1))
            told[offset] = (before[0] + count, max(before[1], last))
        assert told == {
            offset: (len(same), max(one.last for one in same))
            for offset in {one.offset for one in ones}
            for same in [[one for one in ones if one.offset == offset]]
        }

    def is_empty(self):
        assert len(self.register) == 0
        assert not self.register._values
        assert not self.register._left
        assert not self.register._lifted
        assert not self.register._written
        assert (self.slots.index < 0).all()
        assert sorted(self.slots._free) == list(range(len(self.slots.slots)))


def entry_of(one):
    name = one.log.request_id.encode()
    every = cells.every(len(one.log), 2)
    state = State(
        one.offset, one.index, one.log.event_time, 0.0, cells.to_bytes(one.hits), cells.to_bytes(every)
    )
    state.log = packed(one.log)
    return b"s" + name, pack(state)


def some_logs(rng, known, most):
    for _ in range(rng.randrange(most)):
        if rng.random() < 0.05:
            yield Heartbeat(rng.randrange(5000))
        else:
            name = rng.choice(known) if known and rng.random() < 0.05 else f"r{rng.randrange(1 << 30)}"
            rows = rng.choice((1, 3, 20, 64)) if rng.random() < 0.1 else 3
            moment = rng.randrange(5000) if rng.random() < 0.2 else 2000 + rng.randrange(1000)
            yield feature_log(name, moment, [rng.randrange(5) for _ in range(rows)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((3, 20, 300)))
def test_requests_open_close_and_are_put_away_as_objects_are(seed, most):
    rng, table = random.Random(seed), Table()
    for offset in range(30):
        logs = list(some_logs(rng, [*table.open, *table.closed], most))
        if logs:
            table.enter(offset, *logs, wanted=[rng.random() < 0.9 for _ in logs])
        known = [*table.open, *table.closed, "nobody"]
        actions = [
            Action(
                rng.choice(known),
                rng.randrange(6),
                rng.choice(("click", "like")),
                rng.randrange(RULES.reach + 9000),
            )
            for _ in range(rng.randrange(50))
        ]
        table.act(100 + offset, *actions)
        table.close(rng.randrange(6500))
        names = list(table.closed)
        table.deliver(rng.sample(names, rng.randrange(len(names) + 1)) if names else [])
    table.close(LIMIT)
    if table.closed:
        table.deliver(list(table.closed))
    table.is_empty()


def test_one_that_is_lifted_out_while_open_is_an_object_and_no_more():
    table = Table()
    table.enter(5, feature_log("a", 1000), feature_log("b", 1000))
    table.act(9, Action("a", 20, "click", 1100))
    _, request = table.lift("a")
    assert request.open
    assert request.due
    table.enter(6, feature_log("c", 1100))  # in its slot, perhaps
    del table.open["a"]
    table.close(LIMIT)
    assert list(table.closed) == ["b", "c"]
    table.deliver(["c", "b"])
    table.is_empty()


def test_one_that_is_lifted_out_after_its_close_comes_back_with_its_block():
    table = Table()
    table.enter(5, feature_log("a", 1000), feature_log("b", 1000))
    table.act(9, Action("a", 20, "click", 1100), Action("a", 10, "like", 1100))
    table.close(LIMIT)
    before = [part.tolist() if isinstance(part, np.ndarray) else part for part in facts(table, "a")]
    slot, request = table.lift("a")
    assert table.register.lift(slot) is request
    assert (request.open, request.due, request.in_flight) == (False, False, 1)
    assert request.spoken == cells.every(3, 2)
    request.hits |= 0b11
    after = [part.tolist() if isinstance(part, np.ndarray) else part for part in table.register.facts([slot])]
    assert after == before, "its block says what was known at its close"
    table.enter(6, feature_log("c", 1100))
    facts(table, "b")
    lifted, entries, gone = table.register.delivered([slot, table.register.find("b")])
    assert lifted == [request]
    assert [entry[0] for entry in entries] == [b"sb"]
    assert gone == ([(5, 1, -1)], [])
    del table.closed["a"], table.closed["b"]
    table.close(LIMIT)
    table.deliver(["c"])
    table.is_empty()


def facts(table, request_id):
    return table.register.facts([table.register.find(request_id)])


def test_what_blocks_are_written_from_is_what_came():
    table = Table()
    log = feature_log("a", 1000)
    table.enter(5, Heartbeat(7), log)
    table.act(9, Action("a", 30, "like", 1100))
    table.close(LIMIT)
    logs, told, hits = facts(table, "a")
    assert logs == [packed(log)]
    assert told.tolist() == [[len(packed(log)), 5, 1, *STAMP]]
    assert hits.tolist() == [[0b10_00_00]]


@pytest.mark.parametrize(
    ("log", "tasks", "fits"),
    [
        (feature_log("r" * 40, 1, range(64)), 2, True),
        (feature_log("r" * 41, 1), 2, False),
        (feature_log("r", 1, range(65)), 2, False),
        (feature_log("r", 1), 70, False),
    ],
)
def test_requests_that_do_not_fit_are_told(log, tasks, fits):
    rules = Rules(1000, 2000, tuple(f"t{i}" for i in range(tasks)), {"one": 1})
    assert Table(rules).register.takes(sheaf_of(log)) == fits

"""Actions put into requests by compiled code: against the same join without it, and against the decoder."""

from __future__ import annotations

import random
from contextlib import contextmanager
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.codec import USER_ACTIONS, envelope_body
from schema.errors import InvalidMessage
from schema.records import Action, ActionBatch, Heartbeat
from streaming import cells
from streaming import emitter as emitter_module
from streaming import gathering as gathering_module
from streaming.gathering import Gathering, Heard
from streaming.hearing import action_of, all_odd, hear
from streaming.logs import LogReader
from streaming.request import Request
from streaming.rules import Rules
from streaming.slots import Slots
from tests.streaming.make import RULES, head
from tests.streaming.test_partition import SCORED, Bench, some_side, traffic

pack = msgspec.msgpack.Encoder().encode
LIMIT = 1 << 50
KINDS = tuple(RULES.kinds)


def gathering_of(rules):
    return Gathering(rules, Slots(len(rules.tasks)))


@contextmanager
def plain():
    """Every record is read, put into its request and written one by one."""
    with (
        mock.patch.object(gathering_module, "rows_at_most", return_value=0),
        mock.patch.object(emitter_module, "ROWS_AT_MOST", 0),
        mock.patch.object(LogReader, "_at_once", return_value=None),
    ):
        yield


class Recorder(Bench):
    """All that leaves a partition, as bytes, and what it counted."""

    def run(self, seed):
        rng, self.sent, said = random.Random(seed), [], []
        while (side := some_side(rng, self)) is not None:
            for _ in range(rng.randint(1, 5)):
                if self.read[side] < len(self.topics[side]):
                    self.step(side)
            self.sent += [parcel.value for parcel in self.outgoing]
            self.deliver(rng.randint(0, len(self.outgoing)))
            self.commit()
            said.append((tuple(self.committed), self.partition.unacked))
        self.finish()
        counts = [getattr(self.counts, name) for name in self.counts.__slots__]
        return self.sent, self.samples, self.letters, said, self.committed, counts


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 60), st.booleans())
def test_a_partition_does_what_it_does_without_compiled_code(seed, requests, sampled):
    made = traffic(random.Random(seed), requests)
    odd = ActionBatch(7, (Action("r1", 99, "click", 1500), Action("r0", 1, "share", NOW_AND_LATER)))
    made.actions.insert(len(made.actions) // 2, USER_ACTIONS.encode([odd, Heartbeat(1000)]))
    sampling = SCORED if sampled else {}
    compiled = Recorder(made.logs, made.actions, **sampling).run(seed)
    with plain():
        assert compiled == Recorder(made.logs, made.actions, **sampling).run(seed)


NOW_AND_LATER = 1 << 52

names = st.text("abc019-", max_size=44)
actions = st.builds(
    Action,
    names | st.text(max_size=6),
    st.integers(0, (1 << 63) - 1) | st.integers(0, 300),
    st.sampled_from(KINDS) | st.text("clik", max_size=40) | st.text(max_size=3),
    st.integers(0, (1 << 53) - 1) | st.integers(0, 300),
    st.floats(allow_nan=False),
)
batches = st.builds(ActionBatch, st.integers(0, (1 << 63) - 1), st.lists(actions, max_size=5).map(tuple))
messages = st.lists(batches | st.builds(Heartbeat, st.integers(0, (1 << 53) - 1)), max_size=20)


def by_hand(records):
    """As `all_odd`, but that actions of kinds that no task uses are ignored at once."""
    told = all_odd(records, LIMIT)
    unpacked = [(one, action_of(one.packed)) for one in told.odd]
    odd = [one for one, action in unpacked if action.kind in KINDS or action.event_time > LIMIT]
    return told._replace(odd=odd, ignored=len(told.odd) - len(odd))


@settings(max_examples=300, deadline=None)
@given(messages)
def test_a_message_is_read_as_the_decoder_reads_it(records):
    heard = gathering_of(RULES).hear(pack(records), 5, LIMIT)
    assert heard in (None, by_hand(records))
    texts = [
        t for r in records if isinstance(r, ActionBatch) for a in r.actions for t in (a.request_id, a.kind)
    ]
    assert (heard is None) == any(not t.isascii() for t in texts)


@settings(max_examples=500, deadline=None)
@given(messages.filter(bool), st.data())
def test_what_is_read_of_damaged_bytes_is_what_the_decoder_reads(records, data):
    body = bytearray(pack(records))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        how = data.draw(st.sampled_from(("alter", "cut", "insert", "end")))
        if how == "alter":
            body[at] = data.draw(st.integers(0, 255))
        elif how == "insert":
            body.insert(at, data.draw(st.integers(0, 255)))
        elif how == "end":
            body.append(0)
        elif len(body) > 1:
            del body[at:]
            body = body or bytearray(b"\x90")
    heard = gathering_of(RULES).hear(bytes(body), 5, LIMIT)
    if heard is not None:
        assert heard == by_hand(msgspec.msgpack.decode(bytes(body), type=list[ActionBatch | Heartbeat]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        pack([[3, 7]]),
        pack([[3, 7, [["r", 1, "click", 5, 1.0]], 1]]),
        pack([[3, 7, [["r", 1, "click", 5]]]]),
        pack([[3, 7, [["r", 1, "click", 5, 1]]]]),
        pack([[3, 7, [["r", -1, "click", 5, 1.0]]]]),
        pack([[3, 7, [["r", 1 << 63, "click", 5, 1.0]]]]),
        pack([[3, 7, [["r", 1, "click", 1 << 53, 1.0]]]]),
        pack([[2, 1 << 53]]),
        pack([[9, 7, []]]),
        pack([]) + b"\0",
        pack([[3, 7, [["r" * 256, 1, "click", 5, 1.0]]]]),
        b"\xdd\xff\xff\xff\xff",
        b"\x91\x93\x03\x07\xdd\xff\xff\xff\xff",
    ],
)
def test_what_our_codec_does_not_write_is_left_to_the_decoder(body):
    assert gathering_of(RULES).hear(body, 5, LIMIT) is None


def test_json_is_put_into_requests_too():
    gathering, request = gathering_of(RULES), Request(head("r", 5000), None, 3, 0)
    gathering.enter([request])
    told = (
        b'{"user_id": 7, "actions": [{"request_id": "r", "item_id": 20, "kind": "like", "event_time": 5100}]}'
    )
    assert hear(gathering, told, 9, LIMIT) == Heard(1, 5100, 0, 0, [], 0, -1)
    gathering.leave([request])
    assert (request.hits, request.last_action, request.action_offsets) == (0b10_00, 9, [9])


@pytest.mark.parametrize("value", [None, b"", b"\x02abcd", b"{", USER_ACTIONS.encode([])[:-1] + b"\x91"])
def test_what_cannot_be_read_is_an_error(value):
    with pytest.raises(InvalidMessage):
        hear(gathering_of(RULES), value, 5, LIMIT)


MANY = Rules(1000, 2000, tuple(f"t{i}" for i in range(7)), {"one": 1, "more": 0b1010101, "last": 1 << 6})


class Naive:
    """The table as a dict."""

    def __init__(self):
        self.requests = {}

    def enter(self, requests):
        self.requests |= {
            r.request_id: {
                "items": r.items,
                "time": r.event_time,
                "last": r.last_action,
                "hits": r.hits,
                "owed": list(r.action_offsets or ()),
            }
            for r in requests
        }

    def leave(self, name):
        known = self.requests.pop(name)
        return known["hits"], known["last"], sorted(known["owed"])

    def hear(self, records, offset):
        doubled = ignored = odd = 0
        for action in (a for r in records for a in r.actions):
            request, bits = self.requests.get(action.request_id), MANY.kinds.get(action.kind)
            if bits is None:
                ignored += 1
                continue
            hit = cells.of_item(request["items"], action.item_id, bits, 7) if request else 0
            if not hit or action.event_time > request["time"] + MANY.reach:
                odd += 1
                continue
            request["last"] = offset
            if hit & ~request["hits"]:
                request["hits"] |= hit
                request["owed"].append(offset)
            else:
                doubled += 1
        return doubled, ignored, odd


def some_requests(rng, count, known):
    names = {f"r{rng.randrange(2000)}" + "x" * rng.choice((0, 20, 36)) for _ in range(count)}
    for name in sorted(names - known.keys()):
        rows = rng.choice((1, 2, 9, 64, 65)) if rng.random() < 0.1 else 3
        request = Request(
            head(name, rng.randrange(5000), [rng.randrange(5) for _ in range(rows)]), None, 0, 0
        )
        if rng.random() < 0.1:
            request.hits, request.last_action, request.action_offsets = 1, 0, [0]
        yield request


def some_actions(rng, known):
    for _ in range(rng.randrange(100)):
        name, kind = rng.choice([*known, "nobody"]), rng.choice((*MANY.kinds, "none"))
        yield ActionBatch(1, (Action(name, rng.randrange(6), kind, rng.randrange(7500)),))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((3, 40, 700)))
def test_requests_come_and_go_and_keep_what_is_theirs(seed, open_at_once):
    rng = random.Random(seed)
    gathering, naive, inside = gathering_of(MANY), Naive(), {}
    for offset in range(40):
        fresh = list(some_requests(rng, rng.randrange(open_at_once // 2 + 2), inside))
        gathering.enter(fresh)
        for request in fresh:
            assert (request.slot >= 0) == (len(request) <= 64 and len(request.request_id) <= 40)
        inside |= {r.request_id: r for r in fresh if r.slot >= 0}
        naive.enter([r for r in fresh if r.slot >= 0])
        records = list(some_actions(rng, inside))
        heard = gathering.hear(pack(records), offset, LIMIT)
        assert (heard.doubled, heard.ignored, len(heard.odd)) == naive.hear(records, offset)
        count = max(0, len(inside) - rng.randrange(open_at_once))
        going = [inside.pop(name) for name in rng.sample(sorted(inside), count)]
        gathering.leave(going)
        for request in going:
            assert request.slot == -1
            owed = sorted(request.action_offsets or ())
            assert (request.hits, request.last_action, owed) == naive.leave(request.request_id)


def test_so_many_tasks_as_have_no_room_in_a_word_are_left_to_the_join():
    rules = Rules(1000, 2000, tuple(f"t{i}" for i in range(70)), {"one": 1 << 69})
    gathering, request = gathering_of(rules), Request(head("r", 5000), None, 3, 0)
    gathering.enter([request])
    assert request.slot == -1
    told = [ActionBatch(7, (Action("r", 20, "one", 5100),))]
    assert gathering.hear(envelope_body(USER_ACTIONS.encode(told)), 5, LIMIT) is None
    assert len(hear(gathering, USER_ACTIONS.encode(told), 5, LIMIT).odd) == 1

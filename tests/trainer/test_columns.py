"""Messages read at once, in columns, are what the codec and arrays of one request after another make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.batch import Batch, Collator
from schema.codec import TRAINING_SAMPLES
from schema.errors import InvalidMessage
from schema.records import Features, IdColumn, SampleBlock, column
from schema.stages import trace_of
from tests.trainer.make import FORM, TASKS, block, config, records
from trainer.columns import blake2, scan, tokens
from trainer.columns.blocks import Blocks
from trainer.columns.rows import BlockRows
from trainer.entries import Entry
from trainer.messages import Message, MessageReader
from trainer.pieces import PieceRows, piece

READER = MessageReader("samples", config().features, TASKS)
COLLATOR = Collator(config().features)


@st.composite
def columns(draw: st.DrawFn, slots: tuple[int, ...], rows: int) -> tuple[IdColumn, ...]:
    """Columns of some of `slots`, of others, and of one twice."""
    found = []
    for slot in draw(st.lists(st.sampled_from([*slots, 77]), max_size=4)):
        lengths = draw(st.none() | st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
        total = rows if lengths is None else sum(lengths)
        ids = draw(st.lists(st.integers(0, 2**64 - 1), min_size=total, max_size=total))
        found.append(IdColumn(slot, column(ids, "<u8"), b"" if lengths is None else column(lengths, "<u2")))
    return tuple(found)


@st.composite
def sound(draw: st.DrawFn) -> SampleBlock:
    """A block that is fit to train on."""
    n = draw(st.integers(1, 4))
    made = block(draw(st.integers(0, 99)), range(n), seed=draw(st.integers(0, 9)))
    pairs = n * len(TASKS)
    mask = draw(st.lists(st.sampled_from([0, 1, 1, 2]), min_size=pairs, max_size=pairs))
    labels = [
        draw(st.sampled_from([0.0, 0.5, 1.0])) if known else draw(st.floats(width=32, allow_nan=True))
        for known in mask
    ]
    odds = draw(st.lists(st.floats(0, 1, exclude_min=True, width=32), min_size=n, max_size=n) | st.just([]))
    retract = draw(st.lists(st.integers(0, 1), min_size=pairs, max_size=pairs) | st.just([]))
    return msgspec.structs.replace(
        made,
        source=msgspec.structs.replace(made.source, index=draw(st.integers(0, 70_000))),
        request_id=draw(st.text(max_size=40)),
        user_id=draw(st.integers(0, 2**63 - 1)),
        event_time=draw(st.integers(0, 2**53 - 1)),
        surface=draw(st.integers(-(2**63), 2**63 - 1)),
        rows=column(draw(st.lists(st.integers(0, 65535), min_size=n, max_size=n)), "<u2"),
        features=Features(
            context=draw(columns((1, 3), 1)),
            items=draw(columns((2,), n)),
            item_dense=made.features.item_dense,
        ),
        labels=column(labels, "<f4"),
        mask=bytes(mask),
        log_keep=column(draw(st.lists(st.floats(-9, 0, width=32), min_size=n, max_size=n)), "<f4"),
        scores=draw(st.binary(max_size=9)),
        retract=bytes(retract),
        late_offset=draw(st.sampled_from([-1, 0, 300, 2**40])),
        propensities=column(odds, "<f4"),
    )


def _features(**fields: Any) -> Callable[[SampleBlock], SampleBlock]:
    def changed(made: SampleBlock) -> SampleBlock:
        return msgspec.structs.replace(made, features=msgspec.structs.replace(made.features, **fields))

    return changed


def _fields(**fields: Any) -> Callable[[SampleBlock], SampleBlock]:
    return lambda made: msgspec.structs.replace(made, **fields)


FLAWS = [
    _fields(tasks=("like", "click")),
    _fields(tasks=("click", "like", "follow")),
    _fields(tasks=()),
    _fields(rows=b"\x01"),
    _fields(items=b""),
    _fields(items=bytes(800)),
    _fields(positions=b""),
    _fields(labels=b""),
    _fields(labels=column([np.nan] * 8, "<f4")),
    lambda made: msgspec.structs.replace(made, labels=column([np.nan] * len(made.mask), "<f4")),
    lambda made: msgspec.structs.replace(made, labels=column([1.5] * len(made.mask), "<f4")),
    lambda made: msgspec.structs.replace(made, log_keep=column([0.1] * len(made), "<f4")),
    lambda made: msgspec.structs.replace(made, log_keep=column([np.nan] * len(made), "<f4")),
    _fields(mask=b"\x01" * 99),
    _fields(log_keep=b""),
    _fields(retract=b"\x01"),
    _fields(propensities=b"\x01"),
    *[
        lambda made, odds=odds: msgspec.structs.replace(made, propensities=column([odds] * len(made), "<f4"))
        for odds in (0.0, -0.5, 1.0001, np.nan)
    ],
    _features(item_dense=b""),
    _features(context_dense=bytes(4)),
    lambda made: _features(item_dense=column([np.inf] * len(made), "<f4"))(made),
    _features(context=(IdColumn(1, b""),)),
    _features(context=(IdColumn(1, bytes(16), b"\x01\x00"),)),
    _features(items=(IdColumn(77, b"\x00"),)),
    _fields(user_id=-1),
    _fields(event_time=2**53),
    _fields(completed_at=-1),
    _fields(surface=2**63),
    _fields(late_offset=2**64 - 1),
    _fields(resolved_below=2**63),
]


def bodies(made: list[SampleBlock]) -> bytes:
    return msgspec.msgpack.encode(made)


@given(st.lists(sound(), max_size=4), st.integers(0, 3), st.sampled_from(FLAWS) | st.none())
def test_a_message_is_read_as_the_codec_reads_it(made, at, flaw):
    flawed = flaw is not None and at < len(made)
    if flawed:
        made[at] = flaw(made[at])
    payload = TRAINING_SAMPLES.encode(made)
    ours, theirs = READER.read([Message(3, 7, payload, 99)]), READER._slowly(Message(3, 7, payload, 99))
    assert records(ours) == records(theirs)
    assert [e.dead for e in ours if e.dead] == [e.dead for e in theirs if e.dead]
    assert (ours[0].position, ours[-1].following) == ((7, 0), (8, 0))
    found = read_one(bodies(made))
    if found is None:
        assert flawed, "what is sound and as the codec writes it needs no other reader"
        return
    assert [found.block(i) for i in range(len(found))] == made
    assert records(theirs) == made
    if made:
        mine, its = (joined(entries) for entries in (ours, theirs))
        same_rows(mine, its)
        assert mine.moments([0])[0].joined_at == 99


@given(st.lists(sound(), min_size=1, max_size=3), st.data())
def test_a_damaged_body_is_never_read_as_another(made, data):
    """Whatever the bytes are, they are understood as the codec understands them, or left to it."""
    body = bytearray(bodies(made))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    whole = bytes(body[:cut]) if data.draw(st.booleans()) else bytes(body)
    blocks, counts = scan.read(FORM, [bodies(made[:1]), whole, bodies(made[:1])], any_text=True)
    assert (counts[0], counts[2], len(blocks)) == (1, 1, 2 + max(0, counts[1]))
    assert blocks.block(0) == blocks.block(len(blocks) - 1) == made[0]
    if counts[1] < 0:
        return
    found = blocks.part(1, len(blocks) - 1)
    want = understood(whole)
    if want is None:
        return
    assert bodies([found.block(i) for i in range(len(found))]) == bodies(want)
    assert all(READER._problem(record) is None for record in want)


@pytest.mark.parametrize("fields", range(16, 21))
def test_fields_that_older_versions_do_not_write_have_their_defaults(fields):
    made = msgspec.structs.replace(block(4), propensities=b"")
    old = msgspec.msgpack.decode(bodies([made]))
    old[0] = old[0][:fields]
    old[0][1] = old[0][1][:2]
    old[0][12][0][0] = old[0][12][0][0][:2]
    body = msgspec.msgpack.encode(old)
    found = read_one(body)
    assert found is not None
    assert [found.block(0)] == TRAINING_SAMPLES.records(body) == [made]
    same_rows(BlockRows(found), BlockRows(scan.encoded(FORM, [made])))


def test_text_that_is_not_ascii_is_left_to_the_codec():
    odd = msgspec.structs.replace(block(4), request_id="ä")
    assert scan.read(FORM, [bodies([odd])])[1].tolist() == [-1]
    (entry,) = READER.entries(0, 5, TRAINING_SAMPLES.encode([odd]))
    assert records([entry]) == [odd]


@pytest.mark.parametrize("count", [2**16, 2**32 - 1])
def test_an_array_that_promises_more_than_there_is_is_refused(count):
    assert scan.read(FORM, [b"\xdd" + count.to_bytes(4, "big")])[1].tolist() == [-1]


@given(
    st.integers(-(2**63), 2**63 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=300)
    | st.lists(st.just(0), max_size=40)
)
def test_a_token_is_what_was_written(value):
    data = np.frombuffer(msgspec.msgpack.encode(value), "u1")
    kind, found, content, after = tokens.token(data, 0, len(data))
    if isinstance(value, int):
        assert (kind, found, after) == (tokens.INTEGER, value, len(data))
    elif isinstance(value, list):
        assert (kind, found, len(data) - after) == (tokens.ARRAY, len(value), len(value))
    else:
        raw = value if isinstance(value, bytes) else value.encode()
        assert (kind, found) == (tokens.BYTES if isinstance(value, bytes) else tokens.TEXT, len(raw))
        assert (data[content:after].tobytes(), after) == (raw, len(data))
    for end in range(len(data)):
        assert tokens.token(data, 0, end)[3] <= end


@given(st.lists(st.lists(sound(), min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_rows_are_those_of_one_request_after_another(messages, data):
    parts = []
    for made in messages:
        found = read_one(bodies(made))
        assert found is not None
        cut = data.draw(st.integers(0, len(found)))
        parts += [part for part in (found.part(0, cut), found.part(cut, len(found))) if len(part)]
    blocks = [made for made_together in messages for made in made_together]
    normal = [msgspec.structs.replace(b, mask=bytes(m > 0 for m in b.mask)) for b in blocks]
    kept = [piece(b, b.mask) for b in normal]
    busy = Blocks.joined(parts).chosen(np.array([i for i, k in enumerate(kept) if k is not None], np.int64))
    pieces = [k for k, b in zip(kept, normal, strict=True) if k is not None and len(k) == len(b)]
    if len(pieces) < len(busy) or not pieces:
        return
    same_rows(BlockRows(busy), PieceRows(pieces))


def read_one(body: bytes) -> Blocks | None:
    found, counts = scan.read(FORM, [body], any_text=True)
    assert len(found) == max(0, counts[0])
    return None if counts[0] < 0 else found


def understood(body: bytes) -> list[SampleBlock] | None:
    """What the codec makes of `body`; None where its text is not sound, of which the walk is told it is."""
    try:
        return TRAINING_SAMPLES.records(body)
    except InvalidMessage as error:
        if "utf" not in error.detail.lower():
            raise
        return None


def joined(entries: list[Entry]) -> BlockRows:
    return BlockRows(Blocks.joined([e.blocks for e in entries if e.blocks is not None]))


def same_rows(ours: BlockRows, theirs: BlockRows | PieceRows) -> None:
    names = ("counts", "items", "labels", "mask", "log_keep", "late", "event_times", "users", "surfaces")
    for name in (*names, "traces", "newly_known", "weights"):
        assert np.array_equal(getattr(ours, name)(), getattr(theirs, name)()), name
    for name in ("retract", "propensities"):
        mine, its = getattr(ours, name)(), getattr(theirs, name)()
        assert (mine is None) == (its is None)
        assert mine is None or np.array_equal(mine, its), name
    assert len(ours) == len(theirs)
    assert ours.late_rows() == theirs.late_rows()
    requests = np.arange(len(ours.counts()))
    some = requests[::2]
    assert ours.moments(requests.tolist()) == theirs.moments(requests.tolist())
    asked = [(r.context_ids(1, some), r.context_ids(3, some), r.item_ids(2)) for r in (ours, theirs)]
    for (ids, lengths), (its_ids, its_lengths) in zip(*asked, strict=True):
        assert np.array_equal(ids, its_ids)
        assert np.array_equal(lengths, its_lengths)
    same_batch(ours.collated(COLLATOR), theirs.collated(COLLATOR))


def same_batch(ours: Batch, theirs: Batch) -> None:
    assert ours.ids.keys() == theirs.ids.keys()
    assert all(np.array_equal(ours.ids[table], theirs.ids[table]) for table in ours.ids)
    for mine, its in zip((*ours.context, *ours.items), (*theirs.context, *theirs.items), strict=True):
        assert (mine.name, mine.table, mine.pool, mine.target) == (its.name, its.table, its.pool, its.target)
        assert np.array_equal(mine.index, its.index)
        assert (mine.offsets is None) == (its.offsets is None)
        if mine.offsets is not None:
            assert np.array_equal(mine.offsets, its.offsets)
    for name in ("request_of_row", "context_dense", "item_dense", "positions", "surfaces"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


@given(st.lists(st.text(max_size=300), max_size=5))
def test_traces_are_those_of_the_requests(names):
    raw = [name.encode() for name in names]
    sizes = np.array([len(name) for name in raw], np.int64)
    found = np.empty(len(raw), np.int64)
    blake2.traces(np.frombuffer(b"".join(raw), "u1"), np.cumsum(sizes) - sizes, sizes, found)
    assert found.tolist() == [trace_of(name) for name in names]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 255, 256, 257, 1000])
def test_some_requests_are_traced_whatever_their_length(size):
    names = [f"{i:04d}".ljust(size, "x")[:size] if size > 4 else f"{i:04d}"[:size] for i in range(1000)]
    raw = b"".join(name.encode() for name in names)
    sizes = np.full(len(names), size, np.int64)
    found = np.empty(len(names), np.int64)
    blake2.traces(np.frombuffer(raw, "u1"), np.cumsum(sizes) - sizes, sizes, found)
    assert found.tolist() == [trace_of(name) for name in names]
    assert size < 4 or 2 < np.count_nonzero(found) < 40

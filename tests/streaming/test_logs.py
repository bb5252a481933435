"""Feature logs read and blocks written by compiled code: against the decoder, the checks and the encoder."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.codec import FEATURE_LOGS, TRAINING_SAMPLES, Codec, array_head, sealed
from schema.errors import InvalidMessage
from schema.records import FeatureLog, Features, Heartbeat, IdColumn, ModelVersion, SampleBlock
from streaming import cells
from streaming.blocks import BlockMaker
from streaming.emission import Emission
from streaming.heads import pack, read, unpack
from streaming.logs import LogReader, Told
from streaming.request import Request
from streaming.whole import Due, WholeWriter
from tests.streaming.make import feature_log, sampler

RAW = Codec(msgspec.Raw)
NUMBERS = st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 53) - 1])
TASKS = ("click", "like", "t" * 40)


def some_bytes(size):
    return st.binary(min_size=size, max_size=size)


@st.composite
def columns(draw, rows):
    if draw(st.booleans()):
        return IdColumn(draw(NUMBERS), draw(some_bytes(8 * rows)))
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 40]), min_size=rows, max_size=rows))
    lengths = b"".join(size.to_bytes(2, "little") for size in sizes)
    return IdColumn(draw(NUMBERS), draw(some_bytes(8 * sum(sizes))), lengths)


@st.composite
def feature_logs(draw):
    rows = draw(st.sampled_from([1, 2, 3, 40, 64]))
    features = Features(
        tuple(draw(st.lists(columns(1), max_size=3))),
        tuple(draw(st.lists(columns(rows), max_size=2))),
        draw(some_bytes(4 * draw(st.integers(0, 2)))),
        draw(some_bytes(4 * rows * draw(st.integers(0, 2)))),
    )
    return FeatureLog(
        draw(st.text("ab0", max_size=60) | st.text(max_size=3)),
        draw(NUMBERS),
        draw(NUMBERS),
        draw(NUMBERS | st.just(-1)),
        ModelVersion(draw(NUMBERS), tuple(draw(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3)))),
        draw(some_bytes(8 * rows)),
        draw(some_bytes(2 * rows)),
        features,
        draw(some_bytes(4 * rows * draw(st.integers(0, 3)))),
        draw(some_bytes(4 * rows * draw(st.integers(0, 1)))),
        draw(some_bytes(rows * draw(st.integers(0, 1)))),
    )


def said(told: Told):
    """A comparable form: heads as their briefs."""
    sound = [(packed, h.request_id, h.event_time, h.items, index) for packed, h, index in told.sound]
    return sound, list(told.unsound), told.beats, told.word


def canonical(log):
    return log.request_id.isascii() and log.surface >= 0


@settings(max_examples=150, deadline=None)
@given(st.lists(feature_logs() | st.builds(Heartbeat, NUMBERS), max_size=6))
def test_a_message_is_read_as_the_decoder_reads_it(records):
    value, reader = FEATURE_LOGS.encode(records), LogReader()
    at_once = reader._at_once(value, 5)
    plain = reader._one_by_one(value)
    assert (at_once is not None) == all(canonical(r) for r in records if isinstance(r, FeatureLog))
    assert at_once is None or said(at_once) == said(plain)
    assert said(reader.read(value)) == said(plain)
    assert plain.records == len(records)


@settings(max_examples=400, deadline=None)
@given(st.lists(feature_logs().filter(canonical), min_size=1, max_size=2), st.data())
def test_what_is_read_of_damaged_bytes_is_what_the_decoder_reads(records, data):
    body = bytearray(FEATURE_LOGS.encode(records)[5:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        how = data.draw(st.sampled_from(("alter", "alter", "drop", "insert", "cut")))
        if how == "alter":
            body[at] = data.draw(st.integers(0, 255))
        elif how == "drop" and len(body) > 1:
            del body[at]
        elif how == "insert":
            body.insert(at, data.draw(st.integers(0, 255)))
        elif how == "cut":
            del body[max(1, at) :]
    reader = LogReader()
    at_once = reader._at_once(bytes(body), 0)
    if at_once is not None:
        raws = msgspec.msgpack.decode(bytes(body), type=list[msgspec.Raw])
        assert said(at_once) == said(reader._one_by_one(RAW.encode(raws)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": b""},
        {"items": b"1234567"},
        {"positions": b""},
        {"scores": b"1234"},
        {"propensities": b"1234"},
        {"origins": b"1"},
        {"features": Features(context=(IdColumn(1, b""),))},
        {"features": Features(context=(IdColumn(1, b"12345678", b"\2\0"),))},
        {"features": Features(items=(IdColumn(1, b"12345678"),))},
        {"features": Features(item_dense=b"1234")},
        {"features": Features(context_dense=b"123")},
    ],
)
def test_columns_that_do_not_fit_are_told_apart(wrong):
    value = FEATURE_LOGS.encode(
        [feature_log("r", 5000), msgspec.structs.replace(feature_log("s", 5000), **wrong)]
    )
    reader = LogReader()
    assert reader._at_once(value, 5) is None
    told = reader.read(value)
    assert ([h.request_id for _, h, _ in told.sound], [u.position for u in told.unsound]) == (["r"], [1])


def test_an_older_log_is_read_one_by_one():
    fields = msgspec.msgpack.decode(pack(feature_log("r", 5000)))
    reader = LogReader()
    told = reader.read(RAW.encode([msgspec.Raw(msgspec.msgpack.encode(fields[:9]))]))
    assert [h.request_id for _, h, _ in told.sound] == ["r"]


@pytest.mark.parametrize("value", [None, b"", b"\x01", b"{}", FEATURE_LOGS.encode([])[:-1] + b"\x91"])
def test_what_cannot_be_read_is_an_error(value):
    with pytest.raises(InvalidMessage):
        LogReader().read(value)
    with pytest.raises(InvalidMessage):
        read(value)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(feature_logs(), st.integers(0, 1 << 200), NUMBERS, NUMBERS), min_size=1, max_size=4),
    st.integers(0, 300),
)
def test_a_block_is_written_as_the_encoder_writes_it(several, partition):
    writer, maker = WholeWriter(partition, TASKS), BlockMaker(partition, TASKS, sampler())
    dues, blocks = [], []
    for log, hits, at, number in several:
        packed = pack(log)
        head = unpack(packed)
        every = cells.every(len(log), len(TASKS))
        request = Request(head, packed, at, number)
        dues.append(Due(request, packed, hits & every, number, at))
        blocks.append(maker.make(Emission(request, head, hits & every, every), number, at))
    written = writer.write_dues(dues)
    for piece, block, (log, *_) in zip(written.pieces(), blocks, several, strict=True):
        assert (piece is not None) == canonical(log)
        if piece is not None:
            raw, user_id = piece
            assert bytes(raw) == pack(block)
            assert user_id == log.user_id
            assert TRAINING_SAMPLES.decode(RAW.encode([raw])) == [
                msgspec.msgpack.decode(pack(block), type=SampleBlock)
            ]
    kept = [block for block, (log, *_) in zip(blocks, several, strict=True) if canonical(log)]
    assert sealed(array_head(len(kept)), written.whole) == TRAINING_SAMPLES.encode(kept)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 300, 65535])
def test_an_envelope_is_sealed_as_the_encoder_seals_it(count):
    beats = [Heartbeat(7)] * count
    assert sealed(array_head(count), pack(Heartbeat(7)) * count) == FEATURE_LOGS.encode(beats)

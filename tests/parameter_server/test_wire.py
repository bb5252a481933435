"""Blocks and deltas over Arrow, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from parameter_server import messages, wire
from parameter_server.errors import DeltaError, InvalidRequest
from parameter_server.shard import Shard
from parameter_server.wire import Block
from tests.parameter_server.cases import config, u64

FLOATS = np.arange(6, dtype=np.float32)
BLOCK = Block("a", u64([1, 2]), FLOATS)


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [Block("a", u64([1, 2]), FLOATS)],
        [Block("a", u64([]), FLOATS[:0])],
        [
            Block("a", u64([1, 2**64 - 1]), FLOATS),
            Block("b", u64([3]), FLOATS[:0]),
            Block("c", u64([]), FLOATS),
        ],
    ],
)
def test_blocks_survive_the_round_trip(blocks: list[Block]) -> None:
    back, _ = wire.decode_blocks(wire.encode_blocks(blocks))
    assert [(b.table, b.ids.tolist(), b.values.tolist()) for b in back] == [
        (b.table, b.ids.tolist(), b.values.tolist()) for b in blocks
    ]
    assert all((b.ids.dtype, b.values.dtype) == (np.uint64, np.float32) for b in back)


def test_ids_that_are_asked_for_follow_those_of_the_blocks() -> None:
    encoded = wire.encode_blocks([BLOCK], [u64([7, 8, 9]), u64([]), u64([5])])
    (back,), asked = wire.decode_blocks(encoded, [3, 0, 1])
    assert back.ids.tolist() == BLOCK.ids.tolist()
    assert [ids.tolist() for ids in asked] == [[7, 8, 9], [], [5]]
    with pytest.raises(InvalidRequest, match="ids: 48 bytes for 5 ids; legal is 8 an id"):
        wire.decode_blocks(encoded, [3])


def test_the_values_of_one_block_travel_without_a_copy() -> None:
    ((back,), _) = wire.decode_blocks(wire.encode_blocks([BLOCK]))
    assert np.shares_memory(back.values, FLOATS)


def test_ids_outlive_the_message_that_brought_them() -> None:
    ids = u64([1, 2])
    back = wire.decode_ids(wire.encode_ids(ids), 2)
    assert not np.shares_memory(back, ids)
    assert back.flags.owndata


def test_ids_need_not_be_aligned_in_their_message() -> None:
    message = pa.py_buffer(b"x" + u64([1, 2**64 - 1]).tobytes())
    assert wire.decode_ids(message.slice(1), 2).tolist() == [1, 2**64 - 1]


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (None, 1, "ids: 0 bytes for 1 ids; legal is 8 an id"),
        (pa.py_buffer(b"1234567"), 1, "ids: 7 bytes for 1 ids"),
        (wire.encode_ids(u64([1, 2])), 1, "ids: 16 bytes for 1 ids"),
        (wire.encode_ids(u64([1])), 10 << 30, "ids: 8 bytes for 10737418240 ids"),
    ],
)
def test_ids_of_another_length_are_refused(data: pa.Buffer | None, count: int, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        wire.decode_ids(data, count)


def values(column: pa.Array) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([column], names=["values"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (values(pa.array([1.0], pa.float64())), "columns: values double; legal is values float"),
        (values(pa.array([[1.0]], pa.list_(pa.float32()))), "columns: values list<item: float>"),
        (pa.RecordBatch.from_pydict({"a": [1], "values": [2]}), "columns: a int64, values int64; legal is"),
        (values(pa.array([1, None], pa.float32())), "column values: 1 nulls"),
    ],
)
def test_malformed_values_are_refused(batch: pa.RecordBatch, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        wire.decode_values(batch)


@pytest.mark.parametrize(
    ("extents", "message"),
    [
        ((("a", 2, 7),), "columns: 6 values; legal is the 7 that the blocks claim"),
        ((("a", 1, 6),), "ids: 16 bytes for 1 ids"),
        ((("a", 2, 6), ("b", 1, 0)), "ids: 16 bytes for 3 ids"),
        ((), "ids: 16 bytes for 0 ids"),
    ],
)
def test_blocks_that_are_not_as_long_as_claimed_are_refused(
    extents: tuple[tuple[str, int, int], ...], message: str
) -> None:
    encoded = wire.encode_blocks([BLOCK])
    with pytest.raises(InvalidRequest, match=message):
        wire.decode_blocks(encoded._replace(extents=extents))


def test_a_delta_survives_the_round_trip() -> None:
    shard = Shard(config(), 0)
    shard.push("a", 7, {"embedding": (u64(range(12)), np.ones((12, 4), np.float32))}, 0, [5, 6])
    shard.evict("embedding", u64([3]))
    delta = shard.delta((shard.epoch, 0))
    schema = wire.delta_schema(delta.span)
    batches = [(wire.encode_chunk(chunk, schema), None) for chunk in delta.chunks]
    ending = (wire.empty_batch(schema), wire.encode_trailer(delta))
    back = wire.decode_delta(schema, [*batches, ending])
    with pytest.raises(DeltaError, match=r"shard 0: it was cut off after \d chunks"):
        wire.decode_delta(schema, batches)
    assert (back.span, dict(back.steps), back.count) == (delta.span, {"a": 7}, delta.count)
    assert [(t.clock, t.trainer, t.step, t.completed_at.tolist()) for t in back.traces] == [
        (1, "a", 7, [5, 6])
    ]
    assert back.seal == delta.seal
    assert [c.checksum for c in back.chunks] == [c.checksum for c in delta.chunks]


def test_a_stream_of_something_else_is_no_delta() -> None:
    with pytest.raises(DeltaError, match="columns values float"):
        wire.decode_delta(wire.VALUES, [])
    with pytest.raises(DeltaError, match="with a header"):
        wire.decode_delta(wire.CHUNKS, [])
    with pytest.raises(DeltaError):
        wire.decode_delta(wire.CHUNKS.with_metadata({b"headwater.delta": b"\xc1"}), [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Push: "),
        (b"\xc1", "Push: "),
        (b"\x80", "missing required field `shard`"),
        (messages.encode(messages.State(0, 1)), "missing required field `trainer`"),
        (messages.encode(messages.Push(0, 1, "a b", 0, 0, b"", ())), r"matching regex .* `\$.trainer`"),
        (messages.encode(messages.Push(0, 1, "a", -1, 0, b"", ())), r"`int` >= 0 - at `\$.step`"),
    ],
)
def test_malformed_headers_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        messages.decode(data, messages.Push)

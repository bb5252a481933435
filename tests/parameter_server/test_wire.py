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
BATCH = wire.encode_blocks([Block("a", u64([1, 2]), FLOATS)])
LISTS = pa.large_list(pa.uint64())


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
    back = wire.decode_blocks(wire.encode_blocks(blocks))
    assert [(b.table, b.ids.tolist(), b.values.tolist()) for b in back] == [
        (b.table, b.ids.tolist(), b.values.tolist()) for b in blocks
    ]
    assert all((b.ids.dtype, b.values.dtype) == (np.uint64, np.float32) for b in back)


def test_one_block_travels_without_a_copy() -> None:
    (block,) = wire.decode_blocks(BATCH)
    assert np.shares_memory(block.values, FLOATS)


def replaced(name: str, column: pa.Array) -> pa.RecordBatch:
    columns = {field.name: BATCH.column(field.name) for field in BATCH.schema}
    return pa.RecordBatch.from_pydict({**columns, name: column})


def overrun() -> pa.RecordBatch:
    """A list that claims 99 values of the one there is; pyarrow itself refuses to build that at once."""
    offsets = np.array([0, 1])
    lists = pa.Array.from_buffers(LISTS, 1, [None, pa.py_buffer(offsets)], children=[pa.array(u64([1]))])
    batch = replaced("ids", lists)
    offsets[1] = 99
    return batch


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (replaced("ids", pa.array([[1, 2]], pa.large_list(pa.int64()))), r"ids large_list<item: int64>"),
        (
            replaced("values", pa.array([[1.0]], pa.large_list(pa.float64()))),
            r"values large_list<item: double>",
        ),
        (BATCH.select(["table", "ids"]), r"columns: table string, ids .*; legal is table string, ids"),
        (replaced("ids", pa.array([[1, None]], LISTS)), "column ids: 1 nulls"),
        (replaced("ids", pa.array([None], LISTS)), "column ids: 1 nulls"),
        (replaced("table", pa.array([None], pa.string())), "column table: 1 nulls"),
        (overrun(), "columns: .*99 > 1"),
    ],
)
def test_malformed_blocks_are_refused(batch: pa.RecordBatch, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        wire.decode_blocks(batch)


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
    with pytest.raises(DeltaError, match="columns table string"):
        wire.decode_delta(wire.BLOCKS, [])
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
        (messages.encode(messages.Pull(0, 1)), "missing required field `trainer`"),
        (messages.encode(messages.Push(0, 1, "a b", 0, 0, b"")), r"matching regex .* `\$.trainer`"),
        (messages.encode(messages.Push(0, 1, "a", -1, 0, b"")), r"`int` >= 0 - at `\$.step`"),
    ],
)
def test_malformed_headers_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        messages.decode(data, messages.Push)

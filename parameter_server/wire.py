"""What travels over Flight: ids as bytes beside a message, values and deltas as Arrow record batches.

Shared by server and client; knows neither. A pull is ids in and one column of values out, a push both at
once, and a pull may have a push with it; values and deltas travel typed and without a copy. Every column and
schema less is time off each call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from parameter_server.delta import Chunk, Delta, Span, Trace
from parameter_server.errors import DeltaError, InvalidRequest
from schema.records import F32, U64

FLOAT_BYTES: Final = 4
ID_BYTES: Final = 8
_U64_LIST: Final = pa.large_list(pa.uint64())
_F32_LIST: Final = pa.large_list(pa.float32())
VALUES: Final = pa.schema({"values": pa.float32()})
"""Vectors or gradients, one after another."""
CHUNKS: Final = pa.schema(
    {
        "table": pa.string(),
        "ids": _U64_LIST,
        "values": _F32_LIST,
        "sequence": pa.int64(),
        "removed": _U64_LIST,
        "checksum": pa.uint32(),
    }
)
_HEADER: Final = b"headwater.delta"
_ID_BYTES: Final = 8


class Block(NamedTuple):
    """ids uint64 (n,) of one table, and float32 values (n * dim,), row after row."""

    table: str
    ids: U64
    values: F32


class Encoded(NamedTuple):
    """Blocks on their way: of each its table, how many ids and how many values; all ids; all values."""

    extents: tuple[tuple[str, int, int], ...]
    ids: pa.Buffer
    values: pa.RecordBatch


def encode_ids(ids: U64) -> pa.Buffer:
    """The bytes <u8 of ids (n,)."""
    memory: Any = np.ascontiguousarray(ids, "<u8")
    return pa.py_buffer(memory)


def decode_ids(data: pa.Buffer | None, count: int) -> U64:
    """The `count` ids in bytes <u8, as memory of their own: the message may hold much more.

    Raises:
        InvalidRequest: there are more or fewer bytes; None counts as no bytes.
    """
    memory = memoryview(b"" if data is None else data)
    if memory.nbytes != _ID_BYTES * count:
        raise InvalidRequest(f"ids: {memory.nbytes} bytes for {count} ids; legal is {_ID_BYTES} an id")
    return np.array(np.frombuffer(memory, "<u8"), np.uint64)


def encode_values(values: F32) -> pa.RecordBatch:
    """One batch of schema VALUES from float32 of any shape."""
    return pa.RecordBatch.from_arrays([_array(values, np.float32, VALUES.field(0).type)], schema=VALUES)


def decode_values(batch: pa.RecordBatch) -> F32:
    """The values of a batch, (n,), as a read-only view of its memory.

    Raises:
        InvalidRequest: the batch has another schema, nulls, or is not as long as it says.
    """
    if not batch.schema.equals(VALUES):
        raise InvalidRequest(f"columns: {_describe(batch.schema)}; legal is {_describe(VALUES)}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidRequest(f"columns: {error}") from error
    column: Any = batch.column(0)
    if column.null_count:
        raise InvalidRequest(f"column values: {column.null_count} nulls; legal is none")
    values: F32 = column.to_numpy(zero_copy_only=True)
    return values


def encode_blocks(blocks: Sequence[Block], asked: Sequence[U64] = ()) -> Encoded:
    """All that a push has beside its header; without a copy where there is one block.

    `asked` are ids that follow those of the blocks.
    """
    return Encoded(
        tuple((block.table, len(block.ids), len(block.values)) for block in blocks),
        encode_ids(joined([*(block.ids for block in blocks), *asked], np.uint64)),
        encode_values(joined([block.values for block in blocks], np.float32)),
    )


def decode_blocks(encoded: Encoded, asked: Sequence[int] = ()) -> tuple[list[Block], list[U64]]:
    """The blocks, their values read-only views of the message; and as many ids as `asked` says, each time.

    Raises:
        InvalidRequest: as `decode_ids` and `decode_values` do, or not so many values as `extents` say.
    """
    extents = encoded.extents
    counts = [*(count for _, count, _ in extents), *asked]
    ids = cut(decode_ids(encoded.ids, sum(counts)), counts)
    values = decode_values(encoded.values)
    sizes = [size for _, _, size in extents]
    if sum(sizes) != len(values):
        raise InvalidRequest(
            f"columns: {len(values)} values; legal is the {sum(sizes)} that the blocks claim"
        )
    parts = zip(extents, ids[: len(extents)], cut(values, sizes), strict=True)
    return [Block(table, mine, given) for (table, _, _), mine, given in parts], ids[len(extents) :]


def cut(values: NDArray[Any], counts: Iterable[int]) -> list[NDArray[Any]]:
    """The first so many of `values`, the next so many, and so on."""
    ends = list(accumulate(counts))
    return [values[start:end] for start, end in pairwise([0, *ends])]


def joined(arrays: Sequence[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """One behind the other; without a copy where there is one."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _list(values: NDArray[Any], kind: Any) -> Any:
    """A list column of one row; from buffers, since what pa.array would look for is known to be there."""
    dtype = np.uint64 if kind is _U64_LIST else np.float32
    ends: Any = np.array((0, values.size), np.int64)
    return pa.Array.from_buffers(
        kind, 1, [None, pa.py_buffer(ends)], children=[_array(values, dtype, kind.value_type)]
    )


def _array(values: NDArray[Any], dtype: type[np.generic], kind: Any) -> Any:
    memory: Any = np.ascontiguousarray(values, dtype)
    return pa.Array.from_buffers(kind, memory.size, [None, pa.py_buffer(memory)])


class _Trace(msgspec.Struct, frozen=True, array_like=True):
    clock: int
    trainer: str
    step: int
    completed_at: bytes


class _Header(msgspec.Struct, frozen=True):
    shard: int
    epoch: int
    from_clock: int
    full: bool
    nonce: int


class _Trailer(msgspec.Struct, frozen=True):
    to_clock: int
    steps: dict[str, int]
    traces: list[_Trace]
    count: int
    seal: int


def delta_schema(start: Span) -> pa.Schema:
    """CHUNKS, with where the delta starts in the metadata."""
    header = _Header(start.shard, start.epoch, start.from_clock, start.full, start.nonce)
    return CHUNKS.with_metadata({_HEADER: msgspec.msgpack.encode(header)})


def encode_trailer(delta: Delta) -> bytes:
    """All that is known of a delta only after its last chunk; travels as metadata of an empty batch."""
    traces = [
        _Trace(t.clock, t.trainer, t.step, t.completed_at.astype("<i8").tobytes()) for t in delta.traces
    ]
    return msgspec.msgpack.encode(
        _Trailer(delta.to_clock, dict(delta.steps), traces, delta.count, delta.seal)
    )


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """What carries the trailer."""
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def encode_chunk(chunk: Chunk, schema: pa.Schema) -> pa.RecordBatch:
    """One batch of one row."""
    columns = [
        pa.array([chunk.table], pa.string()),
        _list(chunk.ids, _U64_LIST),
        _list(chunk.vectors, _F32_LIST),
        pa.array([chunk.sequence], pa.int64()),
        _list(chunk.removed, _U64_LIST),
        pa.array([chunk.checksum], pa.uint32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def decode_delta(schema: pa.Schema, batches: Iterable[tuple[pa.RecordBatch, Any]]) -> Delta:
    """The delta that a stream of (batch, metadata or None) carries. It is not verified yet.

    Raises:
        DeltaError: the stream is not of chunks, or ends without its trailer.
    """
    metadata = schema.metadata or {}
    if not schema.equals(CHUNKS) or _HEADER not in metadata:
        raise DeltaError(f"delta: columns {_describe(schema)}; legal is {_describe(CHUNKS)} with a header")
    trailer: _Trailer | None = None
    chunks = []
    try:
        header = msgspec.msgpack.decode(metadata[_HEADER], type=_Header)
        for batch, ending in batches:
            if ending is not None:
                trailer = msgspec.msgpack.decode(memoryview(ending), type=_Trailer)
            elif batch.num_rows == 1:
                chunks.append(_chunk(batch))
        if trailer is None:
            raise DeltaError(f"delta of shard {header.shard}: it was cut off after {len(chunks)} chunks")
        traces = tuple(
            Trace(t.clock, t.trainer, t.step, np.frombuffer(t.completed_at, "<i8")) for t in trailer.traces
        )
    except (msgspec.DecodeError, ValueError, IndexError) as error:
        raise error if isinstance(error, DeltaError) else DeltaError(f"delta: {error}") from error
    span = Span(
        header.shard, header.epoch, header.from_clock, trailer.to_clock, full=header.full, nonce=header.nonce
    )
    return Delta(span, trailer.steps, traces, trailer.count, tuple(chunks), trailer.seal)


def _chunk(batch: pa.RecordBatch) -> Chunk:
    ids = batch.column("ids")[0].values.to_numpy(zero_copy_only=True)
    values = batch.column("values")[0].values.to_numpy(zero_copy_only=True)
    return Chunk(
        batch.column("table")[0].as_py(),
        batch.column("sequence")[0].as_py(),
        ids,
        values.reshape(len(ids), -1) if len(ids) else values.reshape(0, 0),
        batch.column("removed")[0].values.to_numpy(zero_copy_only=True),
        batch.column("checksum")[0].as_py(),
    )

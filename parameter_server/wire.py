"""Columns over Flight: blocks for pulls and pushes, chunks for deltas, in Arrow record batches.

Shared by server and client; knows neither. A batch has one row a block or chunk, with list columns, so
that arrays of any width travel typed and, where a batch has one row, without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from parameter_server.delta import Chunk, Delta, Span, Trace
from parameter_server.errors import DeltaError, InvalidRequest
from schema.records import F32, U64

_U64_LIST: Final = pa.large_list(pa.uint64())
_F32_LIST: Final = pa.large_list(pa.float32())
_BLOCK_FIELDS: Final[dict[str, pa.DataType]] = {
    "table": pa.string(),
    "ids": _U64_LIST,
    "values": _F32_LIST,
}
BLOCKS: Final = pa.schema(_BLOCK_FIELDS)
CHUNKS: Final = pa.schema(
    _BLOCK_FIELDS | {"sequence": pa.int64(), "removed": _U64_LIST, "checksum": pa.uint32()}
)
_HEADER: Final = b"headwater.delta"


class Block(NamedTuple):
    """ids uint64 (n,) of one table, and float32 values (n * dim,), row after row, or none."""

    table: str
    ids: U64
    values: F32


def encode_blocks(blocks: Sequence[Block]) -> pa.RecordBatch:
    """One batch of schema BLOCKS."""
    columns = [
        _names(tuple(block.table for block in blocks)),
        _lists([block.ids for block in blocks], _U64_LIST),
        _lists([block.values for block in blocks], _F32_LIST),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BLOCKS)


def decode_blocks(batch: pa.RecordBatch) -> list[Block]:
    """The blocks of a batch, as read-only views of its memory.

    Raises:
        InvalidRequest: the batch has another schema, nulls, or offsets that do not fit.
    """
    if not batch.schema.equals(BLOCKS):
        raise InvalidRequest(f"columns: {_describe(batch.schema)}; legal is {_describe(BLOCKS)}")
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InvalidRequest(f"columns: {error}") from error
    tables, ids, values = batch.columns
    _refuse_nulls({"table": tables, "ids": ids, "values": values})
    names: list[Any] = tables.to_pylist()
    return [Block(table, _item(ids, row), _item(values, row)) for row, table in enumerate(names)]


def _describe(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _refuse_nulls(columns: Mapping[str, Any]) -> None:
    for name, column in columns.items():
        nulls = column.null_count
        if isinstance(column, pa.LargeListArray):
            nulls += column.values.null_count
        if nulls:
            raise InvalidRequest(f"column {name}: {nulls} nulls; legal is none")


@lru_cache(256)
def _names(tables: tuple[str, ...]) -> pa.Array[Any]:
    return pa.array(tables, pa.string())


def _lists(arrays: Sequence[NDArray[Any]], kind: Any) -> Any:
    """A list column of `kind`, from buffers: what pa.array would look for is known to be there."""
    dtype = kind.value_type.to_pandas_dtype()
    offsets = np.zeros(len(arrays) + 1, np.int64)
    np.cumsum([len(array) for array in arrays], out=offsets[1:])
    values = arrays[0] if len(arrays) == 1 else np.concatenate([np.empty(0, dtype), *arrays])
    items: Any = pa.Array.from_buffers(kind.value_type, len(values), [None, _buffer(values, dtype)])
    starts = _buffer(offsets, np.int64)
    return pa.Array.from_buffers(kind, len(arrays), [None, starts], children=[items])


def _buffer(values: NDArray[Any], dtype: type[np.generic]) -> pa.Buffer:
    memory: Any = np.ascontiguousarray(values, dtype)
    return pa.py_buffer(memory)


def _item(column: Any, row: int) -> Any:
    return column[row].values.to_numpy(zero_copy_only=True)


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
        _lists([chunk.ids], _U64_LIST),
        _lists([chunk.vectors.reshape(-1)], _F32_LIST),
        pa.array([chunk.sequence], pa.int64()),
        _lists([chunk.removed], _U64_LIST),
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
    ids = _item(batch.column("ids"), 0)
    values = _item(batch.column("values"), 0)
    return Chunk(
        batch.column("table")[0].as_py(),
        batch.column("sequence")[0].as_py(),
        ids,
        values.reshape(len(ids), -1) if len(ids) else values.reshape(0, 0),
        _item(batch.column("removed"), 0),
        batch.column("checksum")[0].as_py(),
    )

"""Arrow Flight in front of a shard: decodes, bounds and counts requests, and names what is wrong with one.

Knows no table: the shard does. Pull is DoExchange, push is DoPut, delta is DoGet, the rest are actions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import flight

from parameter_server import messages, metrics, wire
from parameter_server.dense import DenseVersion
from parameter_server.errors import InvalidRequest
from parameter_server.shard import Shard

_MEBIBYTE: Final = 1 << 20
_ID_BYTES: Final = 8


@contextmanager
def _request(name: str) -> Iterator[None]:
    """Times a request, and turns a refusal into the Flight status for an invalid argument."""
    start = time.perf_counter()
    try:
        yield
    except InvalidRequest as error:
        metrics.REFUSED.inc()
        raise pa.ArrowInvalid(str(error)) from error
    finally:
        metrics.SECONDS.labels(name).observe(time.perf_counter() - start)


class ShardServer(flight.FlightServerBase):
    """Serves `shard` from its construction until `shutdown`.

    Args:
        shard: what to serve.
        host: the address to listen on.
        port: the port; 0 picks a free one, which `port` then names.
    """

    def __init__(self, shard: Shard, host: str, port: int) -> None:
        self._shard = shard
        self._limit = shard.config.max_message_mb * _MEBIBYTE
        self._actions: dict[type[messages.Request], Callable[[Any], messages.Message]] = {
            messages.State: self._state,
            messages.Stats: self._stats,
            messages.Digest: self._digest,
            messages.Evict: self._evict,
            messages.PutDense: self._put_dense,
            messages.GetDense: self._get_dense,
        }
        super().__init__(f"grpc://{host}:{port}")

    def do_exchange(self, _context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """A pull: blocks of ids in, blocks of vectors out."""
        with _request("pull"):
            self._decode(descriptor.command, messages.Pull)
            blocks = self._read(reader)
            self._check_reply(blocks)
            vectors = self._shard.pull([(block.table, block.ids) for block in blocks])
            metrics.PULLS.inc()
            metrics.ROWS_PULLED.inc(sum(len(block.ids) for block in blocks))
        reply = wire.encode_blocks(
            [
                wire.Block(block.table, block.ids[:0], values.reshape(-1))
                for block, values in zip(blocks, vectors, strict=True)
            ]
        )
        metrics.BYTES.labels("out").inc(reply.nbytes)
        writer.begin(wire.BLOCKS)
        writer.write_batch(reply)

    def do_put(self, _context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """A push: blocks of ids and gradients in, PushDone out."""
        with _request("push"):
            header = self._decode(descriptor.command, messages.Push)
            blocks = self._read(reader)
            pairs = {block.table: (block.ids, _matrix(block)) for block in blocks}
            if len(pairs) < len(blocks):
                raise InvalidRequest("table: one occurs twice; legal is each table at most once a push")
            completed_at = _column("completed_at", header.completed_at, "<i8")
            reply = self._shard.push(
                header.trainer, header.step, pairs, header.event_time, completed_at.tolist()
            )
        if reply.applied:
            metrics.PUSHES.inc()
            metrics.ROWS_PUSHED.inc(sum(len(block.ids) for block in blocks))
        else:
            metrics.REPEATS.inc()
        writer.write(pa.py_buffer(messages.encode(messages.PushDone(reply.clock, reply.applied))))

    def do_get(self, _context: Any, ticket: Any) -> flight.RecordBatchStream:
        """A delta: a stream of chunks."""
        with _request("delta"):
            delta = self._shard.delta(self._decode(ticket.ticket, messages.DeltaSince).since)
        metrics.DELTAS.labels("full" if delta.full else "since").inc()
        metrics.ROWS_SENT.inc(delta.rows)
        schema = wire.delta_schema(delta)
        batches = (wire.encode_chunk(chunk, schema) for chunk in delta.chunks)
        return flight.RecordBatchStream(pa.RecordBatchReader.from_batches(schema, batches))

    def do_action(self, _context: Any, action: Any) -> list[bytes]:
        """One of `messages.ACTIONS`: a request in, a reply out."""
        kind = messages.ACTIONS.get(action.type)
        with _request(action.type if kind else "unknown"):
            if kind is None:
                raise InvalidRequest(f"action: {action.type!r}; legal are {', '.join(messages.ACTIONS)}")
            return [messages.encode(self._actions[kind](self._decode(action.body, kind)))]

    def list_actions(self, _context: Any) -> list[Any]:
        """The actions and what each does."""
        return [(name, kind.__doc__ or "") for name, kind in messages.ACTIONS.items()]

    def _decode(self, data: Any, kind: type[messages.M]) -> messages.M:
        self._check_size(memoryview(data).nbytes)
        request = messages.decode(data, kind)
        expected = (self._shard.index, len(self._shard.config.shards))
        if isinstance(request, messages.Request) and (request.shard, request.shards) != expected:
            raise InvalidRequest(
                f"shard: {request.shard} of {request.shards}; this server is {expected[0]} of {expected[1]}"
            )
        return request

    def _read(self, reader: Any) -> list[wire.Block]:
        try:
            batch = reader.read_chunk().data
        except StopIteration as error:
            raise InvalidRequest("columns: none; legal is one batch") from error
        if batch is None:
            raise InvalidRequest("columns: none; legal is one batch")
        self._check_size(batch.nbytes)
        metrics.BYTES.labels("in").inc(batch.nbytes)
        return wire.decode_blocks(batch)

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise InvalidRequest(f"message: {size} bytes; legal is at most {self._limit} (max_message_mb)")

    def _check_reply(self, blocks: list[wire.Block]) -> None:
        """Refuse a pull before its answer, which may be wider than the question, takes up memory."""
        dims = {table.name: table.dim for table in self._shard.config.tables}
        self._check_size(sum(4 * len(block.ids) * dims.get(block.table, 0) for block in blocks))

    def _state(self, _request: messages.State) -> messages.StateIs:
        return messages.StateIs(*self._shard.state())

    def _stats(self, _request: messages.Stats) -> messages.StatsAre:
        state = self._shard.state()
        dense = {name: value.version for name, value in self._shard.dense.all().items()}
        rows = self._shard.row_counts()
        return messages.StatsAre(self._shard.index, state.epoch, state.clock, rows, state.steps, dense)

    def _digest(self, request: messages.Digest) -> messages.DigestIs:
        return messages.DigestIs(*self._shard.digest(request.table))

    def _evict(self, request: messages.Evict) -> messages.Evicted:
        rows = self._shard.evict(request.table, _column("ids", request.ids, "<u8"))
        metrics.EVICTIONS.inc(rows)
        return messages.Evicted(rows)

    def _put_dense(self, request: messages.PutDense) -> messages.DensePut:
        value = DenseVersion(request.version, request.step, request.payload)
        return messages.DensePut(self._shard.dense.put(request.name, value))

    def _get_dense(self, request: messages.GetDense) -> messages.DenseIs:
        found = self._shard.dense.get(request.name, request.newer_than)
        return messages.DenseIs(None if found is None else (found.version, found.step, found.payload))


def _matrix(block: wire.Block) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The block's values with a row an id. A width other than the table's is the table's to refuse."""
    rows = len(block.ids)
    if len(block.values) % rows if rows else len(block.values):
        raise InvalidRequest(
            f"table {block.table}: gradients: {len(block.values)} values for {rows} ids; legal is dim an id"
        )
    return block.values.reshape(rows, -1) if rows else block.values.reshape(0, 0)


def _column(name: str, data: bytes, dtype: str) -> np.ndarray[Any, Any]:
    try:
        return np.frombuffer(data, dtype)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {len(data)} bytes; legal is a multiple of 8") from error

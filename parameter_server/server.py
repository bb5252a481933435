"""Arrow Flight in front of a shard: decodes, bounds and counts requests, and names what is wrong with one.

Knows no table: the shard does. Pull is DoExchange, with a push before it or without; a push alone is DoPut,
delta is DoGet, the rest are actions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import flight

from parameter_server import messages, metrics, wire
from parameter_server.actions import Actions, Keeper, column
from parameter_server.errors import InvalidRequest, TrimmedError
from parameter_server.security import read_credentials, warn_if_open
from parameter_server.shard import PushReply, Shard
from parameter_server.stream import DeltaStream
from schema.records import U64

_MEBIBYTE: Final = 1 << 20
BUSY: Final = b"busy"
"""The detail of the status by which a shard says that it has as many requests as it takes."""


class Slots:
    """Bounds how many requests are under way: `with` it, one is."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._lock = threading.Lock()
        self._taken = 0

    def __enter__(self) -> None:
        """Hold a slot; raises FlightUnavailableError with detail BUSY where there is none."""
        with self._lock:
            if self._taken >= self._allowed:
                metrics.BUSY.inc()
                raise flight.FlightUnavailableError(
                    f"busy: {self._taken} requests are under way; legal is {self._allowed} (most_requests)",
                    BUSY,
                )
            self._taken += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._taken -= 1

    def load(self) -> tuple[int, int]:
        """How many are taken, and how many there are."""
        return self._taken, self._allowed


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
        keeper: who keeps the shard's checkpoints; None where no one does.

    Raises:
        ConfigError: the security files cannot be read.
    """

    def __init__(self, shard: Shard, host: str, port: int, keeper: Keeper | None = None) -> None:
        self._shard = shard
        self._keeper = keeper
        self._dims = {table.name: table.dim for table in shard.config.tables}
        self._limit = shard.config.max_message_mb * _MEBIBYTE
        self._slots = Slots(shard.config.most_requests)
        credentials = read_credentials(shard.config.security)
        warn_if_open(host, credentials)
        super().__init__(f"{credentials.scheme}://{host}:{port}", **credentials.server_options())

    def do_exchange(self, _context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """A pull: ids in, vectors out; and if it has a push, that first: gradients in, PushDone out.

        What is counted is counted while the answer travels.
        """
        with self._slots:
            with _request("pull"):
                request = self._decode(descriptor.command, messages.Pull)
                chunk = self._read(reader)
                names, counts = zip(*request.tables, strict=True) if request.tables else ((), ())
                blocks, ids = _parts(request.push, chunk, counts)
                self._check_answer(request.tables)
                done = None if request.push is None else self._push(request.push, blocks)
                vectors = self._shard.pull(list(zip(names, ids, strict=True)))
            writer.begin(wire.VALUES)
            values = wire.encode_values(wire.joined([v.reshape(-1) for v in vectors], np.float32))
            if done is None:
                writer.write_batch(values)
            else:
                writer.write_with_metadata(values, _told(done))
            metrics.PULLS.inc()
            metrics.ROWS_PULLED.inc(sum(counts))
            metrics.BYTES.labels("in").inc(_size(chunk))
            metrics.BYTES.labels("out").inc(sum(v.nbytes for v in vectors))

    def do_put(self, _context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """A push: blocks of ids and gradients in, PushDone out."""
        with self._slots, _request("push"):
            header = self._decode(descriptor.command, messages.Push)
            chunk = self._read(reader)
            blocks, _ = _parts(header, chunk)
            done = self._push(header, blocks)
        writer.write(_told(done))
        metrics.BYTES.labels("in").inc(_size(chunk))

    def _push(self, header: messages.Push, blocks: Sequence[wire.Block]) -> PushReply:
        pairs = {block.table: (block.ids, _matrix(block)) for block in blocks}
        if len(pairs) < len(blocks):
            raise InvalidRequest("table: one occurs twice; legal is each table at most once a push")
        times = column("completed_at", header.completed_at, "<i8").tolist()
        done = self._shard.push(header.trainer, header.step, pairs, header.event_time, times)
        if done.applied:
            metrics.PUSHES.inc()
            metrics.ROWS_PUSHED.inc(sum(len(block.ids) for block in blocks))
        else:
            metrics.REPEATS.inc()
        return done

    def do_get(self, _context: Any, ticket: Any) -> flight.GeneratorStream:
        """A delta: a stream of chunks, made while it is read, and a trailer."""
        with _request("delta"):
            stream = self._shard.stream(self._decode(ticket.ticket, messages.DeltaSince).since)
        metrics.DELTAS.labels("full" if stream.start.full else "since").inc()
        schema = wire.delta_schema(stream.start)
        return flight.GeneratorStream(schema, self._batches(stream, schema))

    def _batches(self, stream: DeltaStream, schema: pa.Schema) -> Iterator[Any]:
        with self._slots:
            try:
                for chunk in stream:
                    metrics.ROWS_SENT.inc(len(chunk.ids))
                    yield wire.encode_chunk(chunk, schema)
            except TrimmedError as error:
                # what the caller will be told when it asks again is to start over
                raise flight.FlightUnavailableError(str(error)) from error
            yield wire.empty_batch(schema), wire.encode_trailer(stream.trailer)

    def do_action(self, _context: Any, action: Any) -> list[bytes]:
        """One of `messages.ACTIONS`: a request in, a reply out. That of health is answered when busy too."""
        kind = messages.ACTIONS.get(action.type)
        with _request(action.type if kind else "unknown"):
            if kind is None:
                raise InvalidRequest(f"action: {action.type!r}; legal are {', '.join(messages.ACTIONS)}")
            actions = Actions(self._shard, self._keeper, self._slots.load)
            request = self._decode(action.body, kind)
            if kind is messages.Health:
                return [messages.encode(actions.answer(request))]
            with self._slots:
                return [messages.encode(actions.answer(request))]

    def list_actions(self, _context: Any) -> list[Any]:
        """The actions and what each does."""
        return [(name, kind.__doc__ or "") for name, kind in messages.ACTIONS.items()]

    def _decode(self, data: Any, kind: type[messages.M]) -> messages.M:
        self._check_size(memoryview(data).nbytes)
        request = messages.decode(data, kind)
        if isinstance(request, messages.Request):
            self._check_place(request)
        if isinstance(request, messages.Pull) and request.push is not None:
            self._check_place(request.push)
        return request

    def _check_place(self, request: messages.Request) -> None:
        expected = (self._shard.index, len(self._shard.config.shards))
        if (request.shard, request.shards) != expected:
            raise InvalidRequest(
                f"shard: {request.shard} of {request.shards}; this server is {expected[0]} of {expected[1]}"
            )

    def _check_answer(self, wanted: Sequence[tuple[str, int]]) -> None:
        """That all tables are there, and that the vectors fit into a message."""
        for name, _ in wanted:
            if name not in self._dims:
                raise InvalidRequest(f"table: {name!r}; legal are {', '.join(self._dims)}")
        self._check_size(sum(4 * count * self._dims[name] for name, count in wanted))

    def _read(self, reader: Any) -> Any:
        """The one message after the head of a request: its `app_metadata` and `data`, or None for either."""
        try:
            chunk = reader.read_chunk()
        except StopIteration as error:
            raise InvalidRequest("message: none; legal is one") from error
        except (pa.ArrowException, OSError) as error:
            # what Arrow says of a message whose parts are not as long as its head claims
            raise InvalidRequest(f"columns: {error}") from error
        self._check_size(_size(chunk))
        return chunk

    def _check_size(self, size: int) -> None:
        if size > self._limit:
            raise InvalidRequest(f"message: {size} bytes; legal is at most {self._limit} (max_message_mb)")


def _parts(
    push: messages.Push | None, chunk: Any, asked: Sequence[int] = ()
) -> tuple[list[wire.Block], list[U64]]:
    """The blocks of `push` in a message, and behind their ids as many as `asked` says, each time."""
    ids, values = chunk.app_metadata, chunk.data
    if push is not None:
        if values is None:
            raise InvalidRequest("columns: none; legal is one batch")
        return wire.decode_blocks(wire.Encoded(push.blocks, ids, values), asked)
    if values is not None:
        names = ", ".join(values.schema.names)
        raise InvalidRequest(f"columns: {names}; legal is none, since ids are metadata")
    return [], wire.cut(wire.decode_ids(ids, sum(asked)), asked)


def _told(done: PushReply) -> pa.Buffer:
    return pa.py_buffer(messages.encode(messages.PushDone(*done)))


def _size(chunk: Any) -> int:
    """The bytes of a message."""
    ids, values = chunk.app_metadata, chunk.data
    return (0 if ids is None else ids.size) + (0 if values is None else values.get_total_buffer_size())


def _matrix(block: wire.Block) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The block's values with a row an id. A width other than the table's is the table's to refuse."""
    rows = len(block.ids)
    if len(block.values) % rows if rows else len(block.values):
        raise InvalidRequest(
            f"table {block.table}: gradients: {len(block.values)} values for {rows} ids; legal is dim an id"
        )
    return block.values.reshape(rows, -1) if rows else block.values.reshape(0, 0)

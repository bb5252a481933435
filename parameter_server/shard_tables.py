"""What one shard's tables are asked: each method is one Flight call, tried again as the connection does.

Knows neither the other shards nor which ids belong here: the client does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pyarrow import flight

from parameter_server import messages, wire
from parameter_server.connection import ShardConnection
from parameter_server.errors import ShardError
from schema.records import F32, U64


class Stamp(NamedTuple):
    """Whose push it is, and which, its event time, and when samples were complete; see messages.Push."""

    trainer: str
    step: int
    event_time: int
    completed_at: bytes


class ShardTables:
    """The tables of one shard.

    Args:
        connection: to the shard.
        shard: which it is.
        shards: of how many.
        dims: the width of each table.

    All methods raise what the connection does, and ShardError where an answer is not as long as it should be.
    """

    def __init__(self, connection: ShardConnection, shard: int, shards: int, dims: Mapping[str, int]) -> None:
        self._connection = connection
        self._place = (shard, shards)
        self._dims = dims

    def pull(self, table: str, ids: U64) -> F32:
        """The vector of each id (n,), (n, dim), as a view of the answer."""
        asked = {table: ids}
        wanted = wire.encode_ids(ids)
        descriptor = self._descriptor(asked)

        def ask(client: Any, options: flight.FlightCallOptions) -> F32:
            writer, reader = client.do_exchange(descriptor, options)
            with writer:
                writer.write_metadata(wanted)
                writer.done_writing()
                answer = reader.read_chunk()
            return self._vectors(asked, answer)[table]

        return self._connection.call(ask)

    def push(self, stamp: Stamp, blocks: Sequence[wire.Block]) -> messages.PushDone:
        """Apply the gradients of `blocks`, once."""
        encoded = wire.encode_blocks(blocks)
        descriptor = flight.FlightDescriptor.for_command(messages.encode(self._header(stamp, encoded)))

        def ask(client: Any, options: flight.FlightCallOptions) -> messages.PushDone:
            writer, replies = client.do_put(descriptor, wire.VALUES, options)
            with writer:
                writer.write_with_metadata(encoded.values, encoded.ids)
                writer.done_writing()
                reply = replies.read()
            if reply is None:
                raise flight.FlightUnavailableError("the push was not acknowledged")
            return messages.decode(reply, messages.PushDone)

        return self._connection.call(ask)

    def push_and_pull(
        self, stamp: Stamp, blocks: Sequence[wire.Block], asked: Mapping[str, U64]
    ) -> tuple[messages.PushDone, Mapping[str, F32]]:
        """`push`, and then the vectors of the ids of each table, as views of the answer.

        Where an answer is lost, the push is told apart from a new one when it is sent again, and what is
        pulled then is the same.
        """
        encoded = wire.encode_blocks(blocks, list(asked.values()))
        descriptor = self._descriptor(asked, self._header(stamp, encoded))

        def ask(
            client: Any, options: flight.FlightCallOptions
        ) -> tuple[messages.PushDone, Mapping[str, F32]]:
            writer, reader = client.do_exchange(descriptor, options)
            with writer:
                writer.begin(wire.VALUES)
                writer.write_with_metadata(encoded.values, encoded.ids)
                writer.done_writing()
                answer = reader.read_chunk()
            return messages.decode(answer.app_metadata, messages.PushDone), self._vectors(asked, answer)

        return self._connection.call(ask)

    def message_bytes(self, blocks: Sequence[wire.Block], asked: Mapping[str, U64]) -> int:
        """How large the larger of the two messages of `push_and_pull` is."""
        ids = sum(len(block.ids) for block in blocks) + sum(map(len, asked.values()))
        values = sum(len(block.values) for block in blocks)
        vectors = sum(len(ids) * self._dims[table] for table, ids in asked.items())
        return max(wire.ID_BYTES * ids + wire.FLOAT_BYTES * values, wire.FLOAT_BYTES * vectors)

    def _header(self, stamp: Stamp, encoded: wire.Encoded) -> messages.Push:
        trainer, step, event_time, completed_at = stamp
        return messages.Push(*self._place, trainer, step, event_time, completed_at, encoded.extents)

    def _descriptor(self, asked: Mapping[str, U64], push: messages.Push | None = None) -> Any:
        tables = tuple((table, len(ids)) for table, ids in asked.items())
        request = messages.Pull(*self._place, tables, push)
        return flight.FlightDescriptor.for_command(messages.encode(request))

    def _vectors(self, asked: Mapping[str, U64], answer: Any) -> dict[str, F32]:
        values = wire.decode_values(answer.data)
        shapes = {table: (len(ids), self._dims[table]) for table, ids in asked.items()}
        sizes = [rows * dim for rows, dim in shapes.values()]
        if sum(sizes) != len(values):
            claimed = ", ".join(f"{rows} ids of table {table}" for table, (rows, _) in shapes.items())
            legal = ", ".join(str(dim) for _, dim in shapes.values())
            raise ShardError(
                f"shard {self._place[0]}: {len(values)} values for {claimed}; "
                f"legal is {legal} an id: the configurations differ"
            )
        parts = zip(shapes.items(), wire.cut(values, sizes), strict=True)
        return {table: part.reshape(shape) for (table, shape), part in parts}

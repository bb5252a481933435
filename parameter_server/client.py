"""The client of the parameter server: splits requests by shard, asks in parallel, joins in order.

Knows neither tables' content nor compiled kernels: importing it is cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyarrow import flight

from parameter_server import messages, wire
from parameter_server.connection import ShardConnection
from parameter_server.delta import Delta, ShardState
from parameter_server.dense import DenseVersion
from parameter_server.errors import InvalidRequest
from parameter_server.parallel import Parallel
from parameter_server.router import shard_of, split
from parameter_server.security import read_credentials
from parameter_server.shard_tables import ShardTables, Stamp
from schema.config import ParameterServerConfig
from schema.records import F32, I64, U64

_DENSE_SHARD: Final = 0
_MEBIBYTE: Final = 1 << 20

M = TypeVar("M", bound=messages.Message)


class PushResult(NamedTuple):
    """By shard: its clock after a push, whether it applied the push or had before, and its epoch."""

    clocks: tuple[int, ...]
    applied: tuple[bool, ...]
    epochs: tuple[int, ...]


class ParameterClient:
    """Reads and updates the tables of all shards. Thread-safe; every call has a deadline and retries.

    Args:
        config: the shards, tables, bounds and times; ConfigError where its security files cannot be read.

    All methods raise ShardUnavailable when a shard stays away for config.retry_seconds, ShardError when one
    fails, and InvalidRequest, with nothing changed, for what a docstring does not allow.
    """

    def __init__(self, config: ParameterServerConfig) -> None:
        self._config = config
        self._dims = {table.name: table.dim for table in config.tables}
        self._limit = config.max_message_mb * _MEBIBYTE
        credentials = read_credentials(config.security)
        self._connections = [
            ShardConnection(shard, config.request_seconds, config.retry_seconds, credentials)
            for shard in config.shards
        ]
        self._tables = [
            ShardTables(connection, shard, self.shards, self._dims)
            for shard, connection in enumerate(self._connections)
        ]
        self._parallel = Parallel(len(config.shards), "parameter-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; calls under way give up."""
        for connection in self._connections:
            connection.close()
        self._parallel.close()

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self._connections)

    def shard_of(self, wanted: int) -> int:
        """Which shard holds id `wanted`."""
        return int(self.shards_of(np.array([wanted], np.uint64))[0])

    def shards_of(self, ids: U64) -> I64:
        """Which shard holds each of `ids` uint64 (n,). Ids that lie by shard cost less to ask for."""
        return shard_of(ids, self.shards)

    def pull(self, table: str, ids: U64) -> F32:
        """The vector of each id of `ids` uint64 (n,), repeats allowed; float32 (n, dim). Creates no row.

        Read-only where one message has them all: its memory is handed on without a copy.
        """
        dim = self._dim(table)
        most = max(1, self._limit // (wire.FLOAT_BYTES * dim + wire.ID_BYTES))
        places = enumerate(self._where(table, ids))
        jobs = [(shard, part) for shard, where in places for part in _parts(where, most)]
        if self.shards == 1 and len(jobs) == 1:
            return self._tables[0].pull(table, ids)
        out = np.empty((len(ids), dim), np.float32)

        def fetch(job: tuple[int, Any]) -> None:
            shard, where = job
            out[where] = self._tables[shard].pull(table, ids[where])

        self._parallel.each(fetch, jobs)
        return out

    def push(
        self,
        trainer: str,
        step: int,
        gradients: Mapping[str, tuple[U64, F32]],
        event_time: int,
        completed_at: Sequence[int] = (),
    ) -> PushResult:
        """Apply one step's gradients. Every shard is told of every step, so that their steps stay aligned.

        Args:
            trainer: the trainer's id.
            step: rises with every push of this trainer; one that a shard has had is not applied again.
            gradients: ids uint64 (n,), repeats summed, and gradients float32 (n, dim), by table.
            event_time: of the step's newest sample, in milliseconds.
            completed_at: wall-clock milliseconds of some of its samples, as `schema.stages` packs them.
        """
        blocks = self._blocks(gradients)
        stamp = _stamp(trainer, step, event_time, completed_at)
        return _result(
            self._parallel.each(
                lambda shard: self._tables[shard].push(stamp, blocks[shard]), range(self.shards)
            )
        )

    def push_and_pull(
        self,
        trainer: str,
        step: int,
        gradients: Mapping[str, tuple[U64, F32]],
        event_time: int,
        completed_at: Sequence[int],
        *,
        wanted: Mapping[str, U64],
    ) -> tuple[PushResult, Mapping[str, F32]]:
        """`push`, and then `pull` the ids of each table of `wanted`: in one call a shard, which costs less.

        In calls of their own where one message does not hold it all.
        """
        blocks = self._blocks(gradients)
        where = {table: self._where(table, ids) for table, ids in wanted.items()}
        asked = [
            {table: ids[where[table][shard]] for table, ids in wanted.items()} for shard in range(self.shards)
        ]
        sizes = map(ShardTables.message_bytes, self._tables, blocks, asked)
        if max(sizes) > self._limit:
            done = self.push(trainer, step, gradients, event_time, completed_at)
            return done, {table: self.pull(table, ids) for table, ids in wanted.items()}
        out = {table: np.empty((len(ids), self._dim(table)), np.float32) for table, ids in wanted.items()}
        stamp = _stamp(trainer, step, event_time, completed_at)

        def send(shard: int) -> messages.PushDone:
            done, vectors = self._tables[shard].push_and_pull(stamp, blocks[shard], asked[shard])
            for table, found in vectors.items():
                out[table][where[table][shard]] = found
            return done

        return _result(self._parallel.each(send, range(self.shards))), out

    def _where(self, table: str, ids: U64) -> list[NDArray[np.intp] | slice]:
        """By shard, the positions of those of `ids` that it holds."""
        self._dim(table)
        _check("ids", ids, np.uint64, (len(ids),))
        return [where for _, where in split(ids, self.shards)]

    def _blocks(self, gradients: Mapping[str, tuple[U64, F32]]) -> list[list[wire.Block]]:
        """The blocks of each shard; a shard may get none."""
        blocks: list[list[wire.Block]] = [[] for _ in range(self.shards)]
        for table, (ids, values) in gradients.items():
            _check("ids", ids, np.uint64, (len(ids),))
            _check("gradients", values, np.float32, (len(ids), self._dim(table)))
            for shard, where in split(ids, self.shards):
                part = values[where]
                if len(part):
                    blocks[shard].append(wire.Block(table, ids[where], part.reshape(-1)))
        return blocks

    def delta(self, shard: int, since: tuple[int, int] | None) -> Delta:
        """What changed in `shard` since (epoch, clock); everything (full) if None or too long ago.

        Not verified: `ReplicaTables.apply` does that. One attempt may take config.retry_seconds, since a full
        snapshot is as long as the shard is large; a shard that cannot be reached is given up on after
        config.request_seconds, since whoever follows one asks again anyway.

        Raises:
            DeltaError: what came back is not a delta.
        """
        ticket = flight.Ticket(messages.encode(messages.DeltaSince(shard, self.shards, since)))

        def ask(client: Any, options: flight.FlightCallOptions) -> Delta:
            reader = client.do_get(ticket, options)
            return wire.decode_delta(reader.schema, ((chunk.data, chunk.app_metadata) for chunk in reader))

        return self._connections[shard].call(
            ask, seconds=self._config.retry_seconds, retry_seconds=self._config.request_seconds
        )

    def digest(self, shard: int, table: str) -> tuple[int, int]:
        """(clock, digest) of one shard's part of `table`: an order-independent digest of its content."""
        reply = self._act(shard, messages.Digest(shard, self.shards, table), messages.DigestIs)
        return reply.clock, reply.digest

    def shard_state(self, shard: int) -> ShardState:
        """Where a shard stands: (epoch, clock, last step by trainer)."""
        reply = self._act(shard, messages.State(shard, self.shards), messages.StateIs)
        return ShardState(reply.epoch, reply.clock, reply.steps)

    def stats(self, shard: int) -> messages.StatsAre:
        """A shard in numbers."""
        return self._act(shard, messages.Stats(shard, self.shards), messages.StatsAre)

    def evict(self, table: str, ids: U64) -> int:
        """Remove the rows of `ids` uint64 (n,); how many there were (after a retry, too few may be told)."""
        self._dim(table)
        _check("ids", ids, np.uint64, (len(ids),))
        parts = [ids[where] for _, where in split(ids, self.shards)]

        def send(shard: int) -> int:
            request = messages.Evict(shard, self.shards, table, parts[shard].astype("<u8").tobytes())
            return self._act(shard, request, messages.Evicted).rows

        return sum(self._parallel.each(send, [shard for shard, part in enumerate(parts) if len(part)]))

    def put_dense(self, name: str, version: int, step: int, payload: bytes) -> bool:
        """Publish dense parameters; False if the stored version is not below `version`."""
        request = messages.PutDense(_DENSE_SHARD, self.shards, name, version, step, payload)
        return self._act(_DENSE_SHARD, request, messages.DensePut).stored

    def get_dense(self, name: str, newer_than: int = -1) -> DenseVersion | None:
        """The newest (version, step, payload) of `name`, or None if there is none above `newer_than`."""
        request = messages.GetDense(_DENSE_SHARD, self.shards, name, newer_than)
        found = self._act(_DENSE_SHARD, request, messages.DenseIs).found
        return None if found is None else DenseVersion(*found)

    def checkpoint(self, shard: int, name: str = "") -> messages.CheckpointIs:
        """Have a shard write a checkpoint, which `name` keeps apart from those that it writes of itself.

        One attempt may take config.retry_seconds. A retried call may write two.
        """
        request = messages.Checkpoint(shard, self.shards, name)
        return self._act(shard, request, messages.CheckpointIs, self._config.retry_seconds)

    def restore(self, shard: int, name: str) -> messages.CheckpointIs:
        """Have a shard return to its newest checkpoint of `name`, in a new epoch."""
        request = messages.Restore(shard, self.shards, name)
        return self._act(shard, request, messages.CheckpointIs, self._config.retry_seconds)

    def keep(self, shard: int, prefix: str, names: Sequence[str]) -> int:
        """Have a shard drop its checkpoints named `prefix` and a number, but for `names`; how many.

        Those whose name begins with `messages.POINT` go only so; `prefix` begins with it, too.
        """
        request = messages.Keep(shard, self.shards, prefix, tuple(names))
        return self._act(shard, request, messages.Dropped).checkpoints

    def why(self, table: str, wanted: int) -> messages.RowIs:
        """All that the shard that holds it knows of id `wanted`."""
        self._dim(table)
        shard = self.shard_of(wanted)
        return self._act(shard, messages.Why(shard, self.shards, table, wanted), messages.RowIs)

    def health(self, shard: int) -> messages.Healthy:
        """Whether a shard serves, and how busy it is."""
        return self._act(shard, messages.Health(shard, self.shards), messages.Healthy)

    def _act(self, shard: int, request: messages.Request, reply: type[M], seconds: float | None = None) -> M:
        action = flight.Action(messages.NAMES[type(request)], messages.encode(request))

        def ask(client: Any, options: flight.FlightCallOptions) -> M:
            return messages.decode(next(iter(client.do_action(action, options))).body, reply)

        return self._connections[shard].call(ask, seconds=seconds)

    def _dim(self, table: str) -> int:
        dim = self._dims.get(table)
        if dim is None:
            raise InvalidRequest(f"table: {table!r}; legal are {', '.join(self._dims)}")
        return dim


def _stamp(trainer: str, step: int, event_time: int, completed_at: Sequence[int]) -> Stamp:
    return Stamp(trainer, step, event_time, np.array(completed_at, "<i8").tobytes())


def _result(done: Sequence[messages.PushDone]) -> PushResult:
    return PushResult(
        tuple(d.clock for d in done), tuple(d.applied for d in done), tuple(d.epoch for d in done)
    )


def _parts(where: NDArray[np.intp] | slice, most: int) -> list[NDArray[np.intp] | slice]:
    """`where` cut into parts of at most `most`."""
    if isinstance(where, slice):
        return [slice(at, min(at + most, where.stop)) for at in range(where.start, where.stop, most)]
    return [where[at : at + most] for at in range(0, len(where), most)]


def _check(name: str, values: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]) -> None:
    if values.dtype != dtype or values.shape != shape:
        legal = f"{np.dtype(dtype)} {shape}"
        raise InvalidRequest(f"{name}: {values.dtype} {values.shape}; legal is {legal}")

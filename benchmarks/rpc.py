"""Remote calls: a pull and a push through the client beside their parts measured alone.

The parts: the bare Flight exchange of as many bytes with a server that does nothing, in a process of its own
too, and the bare table call in this process. The client's side is against a shard in another process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa
from harness import Benchmark
from pyarrow import flight

from parameter_server.client import ParameterClient
from parameter_server.server import ShardServer
from parameter_server.shard import Shard
from parameter_server.table import Table
from schema.config import ParameterServerConfig, ShardConfig, TableConfig

DIM = 16
IDS = 20_000
FILL = 200_000
ROUNDS = 7
CALLS = 40
TOMBSTONES = 1000
NAME = "embedding"


def settings(rows: int, port: int = 1) -> ParameterServerConfig:
    """One shard of one table."""
    table = TableConfig(name=NAME, dim=DIM, capacity=rows)
    return ParameterServerConfig(shards=(ShardConfig(port=port, ops_port=2),), tables=(table,))


def gradients(count: int, seed: int = 0) -> np.ndarray:
    """float32 (count, DIM)."""
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def batches(rows: int) -> Iterator[np.ndarray]:
    """All ids below `rows`, in parts."""
    for start in range(0, rows, FILL):
        yield np.arange(start, min(start + FILL, rows), dtype=np.uint64)


class BareServer(flight.FlightServerBase):
    """Answers an exchange with as many values as a pull, and takes in what a push brings."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._vectors = pa.RecordBatch.from_arrays([pa.array(gradients(IDS).reshape(-1))], names=["values"])

    def do_exchange(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
        """Ids in, vectors out."""
        reader.read_chunk()
        writer.begin(self._vectors.schema)
        writer.write_batch(self._vectors)

    def do_put(self, _context: Any, _descriptor: Any, reader: Any, writer: Any) -> None:
        """Ids and gradients in, a few bytes out."""
        reader.read_chunk()
        writer.write(pa.py_buffer(b"done"))


def serve_bare(port: Connection) -> None:
    """A process with a BareServer; sends its port, ends with the connection."""
    server = BareServer()
    port.send(server.port)
    port.recv()
    server.shutdown()


def serve_shard(port: Connection, rows: int) -> None:
    """A process with a shard of `rows` rows."""
    shard = Shard(settings(rows), 0)
    for step, ids in enumerate(batches(rows)):
        shard.push("filler", step, {NAME: (ids, gradients(len(ids)))}, 0)
    server = ShardServer(shard, "127.0.0.1", 0)
    port.send(server.port)
    port.recv()
    server.shutdown()


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[int]:
    """Runs `target` beside this process; the port that it listens on."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *arguments))
    child.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        child.join(30)
        if child.is_alive():
            child.kill()


class Work:
    """The sides to compare; each call is of other ids, as a trainer's would be."""

    def __init__(self, rows: int, bare_port: int, shard_port: int) -> None:
        self.rows = rows
        self.rng = np.random.default_rng(1)
        self.client = ParameterClient(settings(rows, shard_port))
        self.bare = flight.connect(f"grpc://127.0.0.1:{bare_port}")
        self.table = Table(settings(rows).tables[0], TOMBSTONES)
        for clock, ids in enumerate(batches(rows), start=1):
            self.table.push(ids, gradients(len(ids)), clock, 0)
        self.values = gradients(IDS)
        self.step = self.clock = 10**6

    def ids(self) -> list[np.ndarray]:
        """What CALLS calls are of."""
        return [self.rng.choice(self.rows, IDS, replace=False).astype(np.uint64) for _ in range(CALLS)]

    def client_pull(self, ids: np.ndarray) -> None:
        """Through the client."""
        self.client.pull(NAME, ids)

    def client_push(self, ids: np.ndarray) -> None:
        """Through the client."""
        self.step += 1
        self.client.push("bench", self.step, {NAME: (ids, self.values)}, 0)

    def table_pull(self, ids: np.ndarray) -> None:
        """In this process."""
        self.table.pull(ids)

    def table_push(self, ids: np.ndarray) -> None:
        """In this process."""
        self.clock += 1
        self.table.push(ids, self.values, self.clock, 0)

    def flight_pull(self, ids: np.ndarray) -> None:
        """The bytes of a pull."""
        batch = pa.RecordBatch.from_arrays([pa.array(ids)], names=["ids"])
        writer, reader = self.bare.do_exchange(
            flight.FlightDescriptor.for_command(b"pull"), flight.FlightCallOptions(timeout=10)
        )
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            reader.read_chunk()

    def flight_push(self, ids: np.ndarray) -> None:
        """The bytes of a push: lists of one, so that the two columns may differ in length."""
        offsets = pa.array([0, len(ids)], pa.int64())
        ends = pa.array([0, self.values.size], pa.int64())
        batch = pa.RecordBatch.from_arrays(
            [
                pa.LargeListArray.from_arrays(offsets, pa.array(ids)),
                pa.LargeListArray.from_arrays(ends, pa.array(self.values.reshape(-1))),
            ],
            names=["ids", "values"],
        )
        writer, replies = self.bare.do_put(
            flight.FlightDescriptor.for_command(b"push"), batch.schema, flight.FlightCallOptions(timeout=10)
        )
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            replies.read()  # type: ignore[attr-defined]

    def seconds(self, call: Callable[[np.ndarray], None]) -> Callable[[], float]:
        """The mean time of `call`."""

        def side() -> float:
            wanted = self.ids()
            start = time.perf_counter()
            for ids in wanted:
                call(ids)
            return (time.perf_counter() - start) / CALLS

        return side


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    rows = parser.parse_args().rows
    bench = Benchmark("rpc")
    bench.say(f"filling {rows:,} rows, twice")
    with process(serve_bare) as bare, process(serve_shard, rows) as shard:
        work = Work(rows, bare, shard)
        for kind in ("pull", "push"):
            sides = {
                f"{kind}_{side}_seconds": work.seconds(getattr(work, f"{side}_{kind}"))
                for side in ("client", "flight", "table")
            }
            results = bench.alternate(sides, ROUNDS)
            for result in results:
                result["parts"] = result[f"{kind}_flight_seconds"] + result[f"{kind}_table_seconds"]
            bench.ratio_bar(f"{kind}_over_parts", results, f"{kind}_client_seconds", "parts", at_most=1.3)
        work.client.close()
    bench.measured["rows"], bench.measured["ids_a_call"] = rows, IDS
    bench.finish()


if __name__ == "__main__":
    main()

"""Deltas: what making and applying one costs beside bare numpy, and what lookups in a replica feel of it.

One shard and one replica of `--rows` rows, of which 1 % change between two deltas.
"""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np
from harness import Benchmark

from parameter_server.delta import Delta
from parameter_server.replica import ReplicaTables
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, ShardConfig, TableConfig

DIM = 16
FILL = 200_000
ROUNDS = 7
DIRTY = 0.01
APPLIED = 40
"""Deltas a round of lookups."""
LOOKUP = 1000
"""Ids a lookup: a feed's candidates with a few features each."""


class World:
    """A shard and its replica, and bare arrays of the same size."""

    def __init__(self, rows: int) -> None:
        table = TableConfig(name="embedding", dim=DIM, capacity=rows)
        self.config = ParameterServerConfig(shards=(ShardConfig(port=1, ops_port=2),), tables=(table,))
        self.rows = rows
        self.rng = np.random.default_rng(0)
        self.shard = Shard(self.config, 0)
        self.replica = ReplicaTables(self.config)
        self.step = 0
        for start in range(0, rows, FILL):
            self.push(np.arange(start, min(start + FILL, rows), dtype=np.uint64))
        self.replica.apply([self.shard.delta(None)])
        self.versions = np.zeros(rows, np.uint64)
        self.vectors = self.rng.normal(size=(rows, DIM)).astype(np.float32)

    def push(self, ids: np.ndarray) -> None:
        """One step's gradients of `ids`."""
        values = self.rng.normal(size=(len(ids), DIM)).astype(np.float32)
        self.shard.push("trainer", self.step, {"embedding": (ids, values)}, self.step)
        self.step += 1

    def change(self) -> np.ndarray:
        """Change DIRTY of all rows, in pushes of a usual size; the rows' numbers."""
        chosen = self.rng.choice(self.rows, int(self.rows * DIRTY), replace=False)
        for part in np.array_split(chosen.astype(np.uint64), max(1, len(chosen) // 2000)):
            self.push(part)
        return np.sort(chosen)

    def delta(self) -> Delta:
        """What the replica lacks."""
        return self.shard.delta(self.replica.position(0))


def timed(work: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - start


def build(bench: Benchmark, world: World) -> None:
    """Making a delta beside scanning versions and gathering the rows found."""
    world.versions[:] = 0

    def scan() -> float:
        rows = world.change()
        world.versions[rows] = world.step
        since = world.step - 1

        def bare() -> None:
            chosen = np.flatnonzero(world.versions > since)
            _ = world.vectors[chosen], world.versions[chosen]

        return timed(bare)

    def make() -> float:
        world.change()
        seconds = timed(world.delta)
        world.replica.apply([world.delta()])
        return seconds

    results = bench.alternate({"build_seconds": make, "scan_seconds": scan}, ROUNDS)
    bench.ratio_bar("build_over_scan", results, "build_seconds", "scan_seconds", at_most=3)


def apply(bench: Benchmark, world: World) -> None:
    """Applying a delta, checks and all, beside scattering the same rows at known places; rows a second."""
    count = int(world.rows * DIRTY)

    def whole() -> float:
        world.change()
        delta = world.delta()
        return delta.rows / timed(lambda: world.replica.apply([delta]))

    def scatter() -> float:
        # in the order in which they changed, as they come to a replica
        rows = world.rng.choice(world.rows, count, replace=False)
        values = world.rng.normal(size=(count, DIM)).astype(np.float32)

        def bare() -> None:
            world.vectors[rows] = values

        return count / timed(bare)

    results = bench.alternate({"apply_rows_per_second": whole, "scatter_rows_per_second": scatter}, ROUNDS)
    bench.ratio_bar(
        "apply_over_scatter", results, "apply_rows_per_second", "scatter_rows_per_second", at_least=0.4
    )


def latency(bench: Benchmark, world: World) -> None:
    """The 99th percentile of lookups in the replica while deltas are applied beside those when none is."""
    applying = threading.Event()
    looked: dict[bool, list[float]] = {True: [], False: []}
    stop = threading.Event()

    def look() -> None:
        rng = np.random.default_rng(1)
        while not stop.is_set():
            ids = rng.integers(0, world.rows, LOOKUP, dtype=np.uint64)
            before = applying.is_set()
            start = time.perf_counter()
            world.replica.pull("embedding", ids)
            took = time.perf_counter() - start
            if applying.is_set() or before:
                looked[True].append(took)
            else:
                looked[False].append(took)
            stop.wait(0.0005)

    results = []
    for number in range(ROUNDS):
        looked = {True: [], False: []}
        stop.clear()
        reader = threading.Thread(target=look)
        reader.start()
        for _ in range(APPLIED):
            world.change()
            delta = world.delta()
            time.sleep(0.05)
            applying.set()
            world.replica.apply([delta])
            applying.clear()
        stop.set()
        reader.join()
        results.append(
            {kind: float(np.percentile(looked[kind == "applying"], 99)) for kind in ("applying", "idle")}
        )
        bench.say(
            f"lookups, round {number + 1} of {ROUNDS}: {results[-1]}, {len(looked[True])} while applying"
        )
    bench.measured["lookup_p99_seconds"] = results
    bench.ratio_bar("p99_while_applying", results, "applying", "idle", at_most=2)


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    rows = parser.parse_args().rows
    bench = Benchmark("delta")
    bench.say(f"filling {rows:,} rows")
    world = World(rows)
    build(bench, world)
    apply(bench, world)
    latency(bench, world)
    bench.measured["rows"] = rows
    bench.finish()


if __name__ == "__main__":
    main()

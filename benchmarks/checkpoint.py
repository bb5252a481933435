"""Checkpoints: what an incremental one costs beside a full one, and how long pushes wait for either.

A trainer pushes all the while. `stall_share` is the time that pushes waited for the shard's lock while a
checkpoint was being written, over the time that this took; what they lost to a busy machine as well is in
`push_slowdown`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from harness import Benchmark

from parameter_server.checkpoint import Checkpoints
from parameter_server.locks import ReadWriteLock
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, ShardConfig, TableConfig

DIM = 16
BATCH = 2000
FILL = 200_000
ROUNDS = 3
DIRTY = 0.01


class TimedLock(ReadWriteLock):
    """Adds up how long writers waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """As its base."""
        start = time.perf_counter()
        with super().writing():
            self.waited += time.perf_counter() - start
            yield


class Trainer:
    """Pushes random ids of `rows` without end and notes how long each push took, and when."""

    def __init__(self, shard: Shard, rows: int) -> None:
        self._shard = shard
        self._rows = rows
        self._stop = threading.Event()
        self.pushes: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng = np.random.default_rng(5)
        gradients = rng.normal(size=(BATCH, DIM)).astype(np.float32)
        step = self._shard.state().steps.get("trainer", 0)
        while not self._stop.wait(0.005):  # a trainer computes something between two pushes
            ids = rng.integers(0, self._rows, BATCH, dtype=np.uint64)
            step += 1
            start = time.perf_counter()
            self._shard.push("trainer", step, {"embedding": (ids, gradients)}, step)
            self.pushes.append((start, time.perf_counter() - start))

    def median(self, since: float, until: float) -> float:
        """The median time of a push in a span of time."""
        times = [took for start, took in self.pushes if since <= start < until]
        return statistics.median(times) if times else float("nan")


def filled(rows: int) -> Shard:
    """A shard of `rows` rows."""
    table = TableConfig(name="embedding", dim=DIM, capacity=rows)
    shard = Shard(ParameterServerConfig(shards=(ShardConfig(port=1, ops_port=2),), tables=(table,)), 0)
    rng = np.random.default_rng(0)
    for step, start in enumerate(range(0, rows, FILL)):
        ids = np.arange(start, min(start + FILL, rows), dtype=np.uint64)
        shard.push("filler", step, {"embedding": (ids, rng.normal(size=(len(ids), DIM)).astype("f4"))}, step)
    return shard


def dirty(shard: Shard, rows: int, number: int) -> None:
    """Change DIRTY of all rows."""
    rng = np.random.default_rng(number)
    ids = rng.choice(rows, int(rows * DIRTY), replace=False).astype(np.uint64)
    gradients = rng.normal(size=(len(ids), DIM)).astype(np.float32)
    shard.push("changer", number, {"embedding": (ids, gradients)}, number)


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    rows = parser.parse_args().rows
    bench = Benchmark("checkpoint")
    bench.say(f"filling {rows:,} rows")
    shard = filled(rows)
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
        checkpoints = quiet(bench, shard, rows, Path(folder) / "quiet")
        stalls(bench, shard, rows, checkpoints, Path(folder) / "busy")
        checkpoints.close()
    bench.measured["rows"] = rows
    bench.finish()


def quiet(bench: Benchmark, shard: Shard, rows: int, folder: Path) -> Checkpoints:
    """Times full and incremental checkpoints of a shard that nothing else uses."""
    numbers = iter(range(1000))
    last: list[Checkpoints] = []

    def full() -> float:
        for old in last:
            old.close()
        last[:] = [Checkpoints(folder / str(next(numbers)), kept=1, shards=1)]
        start = time.perf_counter()
        last[0].save(shard)
        return time.perf_counter() - start

    def incremental() -> float:
        dirty(shard, rows, next(numbers))
        start = time.perf_counter()
        saved = last[0].save(shard)
        if not saved.incremental:
            raise RuntimeError(f"{saved.path} is of everything; fewer rows should have changed")
        return time.perf_counter() - start

    results = bench.alternate({"full_seconds": full, "incremental_seconds": incremental}, ROUNDS)
    bench.ratio_bar("incremental_over_full", results, "incremental_seconds", "full_seconds", at_most=0.1)
    return last[0]


def stalls(bench: Benchmark, shard: Shard, rows: int, checkpoints: Checkpoints, folder: Path) -> None:
    """Times how long a trainer's pushes wait while checkpoints are written."""
    lock = TimedLock()
    shard._lock = lock  # noqa: SLF001 - to see the waiting from inside
    shares: dict[str, list[float]] = {"full": [], "incremental": []}
    slowdowns: dict[str, list[float]] = {"full": [], "incremental": []}
    with Trainer(shard, rows) as trainer:
        for number in range(ROUNDS):
            for kind in list(shares):
                idle = time.perf_counter()
                time.sleep(0.5)
                writer = checkpoints
                if kind == "full":
                    writer = Checkpoints(folder / str(number), kept=1, shards=1)
                dirty(shard, rows, 10_000 + number)
                start, waited = time.perf_counter(), lock.waited
                writer.save(shard)
                end = time.perf_counter()
                shares[kind].append((lock.waited - waited) / (end - start))
                slowdowns[kind].append(trainer.median(start, end) / trainer.median(idle, start))
                if kind == "full":
                    writer.close()
            bench.say(f"stalls, round {number + 1} of {ROUNDS}: {shares}")
    bench.measured["stall_shares"] = shares
    bench.measured["push_slowdown"] = slowdowns
    worst = max(statistics.median(values) for values in shares.values())
    bench.bar("stall_share", worst, at_most=0.05)


if __name__ == "__main__":
    main()

"""Lookup, update and memory of a table against what memory itself allows: `scripts/bench table [--rows N]`.

Ids are drawn uniformly from the resident ones and come in batches. The yardsticks know the rows already.
"""

from __future__ import annotations

import argparse
import mmap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark, rate
from numba import njit

from parameter_server.kernels import cuckoo
from parameter_server.memory import Column, aligned_zeros
from parameter_server.table import Table
from runtime.prefetch import prefetch
from schema.config import TableConfig

DIM = 16
BATCH = 20_000
BATCHES = 50
ROUNDS = 7
FILL = 200_000
VECTOR_AND_STATE = 4 * (DIM + 1)
LOAD = 0.8


@njit(nogil=True, fastmath={"reassoc", "nsz"}, inline="always")
def _mean_square(gradients: Any, i: Any) -> Any:
    total = np.float32(0.0)
    for j in range(gradients.shape[1]):
        total += gradients[i, j] * gradients[i, j]
    return total / np.float32(gradients.shape[1])


@njit(nogil=True)
def bare_update(  # noqa: PLR0917 - a kernel
    vectors: Any, accumulators: Any, rows: Any, gradients: Any, rate: Any, epsilon: Any, ahead: Any
) -> None:
    """Row-wise Adagrad with the rows known: the best loop that numba makes, asking `ahead` rows early."""
    flat = vectors.reshape(-1)
    dim = vectors.shape[1]
    n = len(rows)
    for i in range(n):
        if i + ahead < n:
            prefetch(flat, rows[i + ahead] * dim)
            prefetch(accumulators, rows[i + ahead])
        row = rows[i]
        accumulators[row] += _mean_square(gradients, i)
        step = rate / (np.sqrt(accumulators[row]) + epsilon)
        for j in range(dim):
            vectors[row, j] -= step * gradients[i, j]


class Setting:
    """A filled table beside bare arrays of the same rows, and batches of ids with their rows."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(1)
        self.table = Table(TableConfig(name="bench", dim=DIM, capacity=rows), 1)
        self.ids = np.unique(rng.integers(1, 2**62, rows + rows // 100, dtype=np.uint64))
        self.ids = rng.permutation(self.ids)[:rows]
        ones = np.ones((FILL, DIM), np.float32)
        for start in range(0, rows, FILL):
            part = self.ids[start : start + FILL]
            self.table.push(part, ones[: len(part)], 1, 0)
        self.vectors = Column(rows, DIM, np.float32).array
        self.vectors[:] = 1
        self.accumulators = Column(rows, 0, np.float32).array
        self.accumulators[:] = 0.1
        self.rows = [np.unique(rng.integers(0, rows, BATCH)) for _ in range(BATCHES)]
        self.rows = [rng.permutation(r) for r in self.rows]
        self.batches = [self.ids[r] for r in self.rows]
        self.gradients = rng.normal(size=(BATCH, DIM)).astype(np.float32)
        self.prepared = [self.table.prepare(batch, self.gradients[: len(batch)]) for batch in self.batches]
        self.count = sum(len(batch) for batch in self.batches)
        self.clock = 1


def gather_sides(setting: Setting) -> dict[str, Callable[[], float]]:
    """Lookup and gather against numpy.take, which does not look up; checked bounds and unchecked."""
    out = np.empty((BATCH, DIM), np.float32)

    def ours() -> None:
        for batch in setting.batches:
            setting.table.pull(batch)

    def take() -> None:
        for rows in setting.rows:
            np.take(setting.vectors, rows, axis=0, out=out[: len(rows)], mode="clip")

    return {
        "gather_per_second": lambda: rate(ours, setting.count),
        "take_per_second": lambda: rate(take, setting.count),
    }


def update_sides(setting: Setting) -> dict[str, Callable[[], float]]:
    """Lookup and update, and a whole push with its checks, against the bare loop at its best distance."""

    def apply() -> None:
        setting.clock += 1
        for prepared in setting.prepared:
            setting.table.apply(prepared, setting.clock, 0)

    def push() -> None:
        setting.clock += 1
        for batch in setting.batches:
            setting.table.push(batch, setting.gradients[: len(batch)], setting.clock, 0)

    def bare(ahead: int) -> Callable[[], None]:
        def run() -> None:
            for rows in setting.rows:
                bare_update(
                    setting.vectors,
                    setting.accumulators,
                    rows,
                    setting.gradients,
                    np.float32(0.05),
                    np.float32(1e-8),
                    ahead,
                )

        return run

    def best(*passes: Callable[[], None]) -> float:
        # both sides in as many passes: the first finds in the cache what the other side left there
        return max(rate(run, setting.count) for run in passes)

    return {
        "update_per_second": lambda: best(apply, apply, apply),
        "push_per_second": lambda: rate(push, setting.count),
        "bare_update_per_second": lambda: best(bare(8), bare(16), bare(32)),
    }


def dict_side(setting: Setting) -> Callable[[], float]:
    """A Python dict from id to row, and torch's Adagrad on a sparse embedding."""
    rows_of = dict(zip(setting.ids.tolist(), range(len(setting.ids)), strict=True))
    embedding = torch.nn.Embedding(len(setting.ids), DIM, sparse=True)
    optimizer = torch.optim.Adagrad(embedding.parameters(), lr=0.05)
    some = setting.batches[:3]
    gradients = torch.from_numpy(setting.gradients)

    def run() -> None:
        for batch in some:
            rows = torch.tensor([rows_of[i] for i in batch.tolist()])
            embedding.weight.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), gradients[: len(rows)], embedding.weight.shape, is_coalesced=False
            )
            optimizer.step()

    return lambda: rate(run, sum(len(batch) for batch in some))


def thread_sides(setting: Setting) -> dict[str, Callable[[], float]]:
    """The same pulls by one thread, and by two at once."""

    def work() -> None:
        for batch in setting.batches:
            setting.table.pull(batch)

    def two() -> float:
        threads = [threading.Thread(target=work) for _ in range(2)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return 2 * setting.count / (time.perf_counter() - began)

    return {"two_threads_per_second": two, "one_thread_per_second": lambda: rate(work, setting.count)}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def bytes_per_id(rows: int) -> float:
    """Of a table filled until its index, a power of two of slots, is 0.8 full: measured, not reckoned."""
    slots = 16
    while slots * LOAD < rows:
        slots *= 2
    if slots * LOAD > 1.5 * rows:
        slots //= 2
    count = int(slots * LOAD)
    ones = np.ones((BATCH, DIM), np.float32)
    before = resident()
    table = Table(TableConfig(name="bench", dim=DIM, capacity=slots // 2), 1)
    for start in range(0, count, BATCH):
        part = np.arange(start, min(start + BATCH, count), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        table.push(part, ones[: len(part)], 1, 0)
    return (resident() - before) / count


def load_at_first_failure(buckets: int) -> float:
    """How full 4-slot buckets are when an insert first fails."""
    slots = aligned_zeros((4 * buckets,), np.uint64)
    records = np.zeros(cuckoo.RECORD * len(slots), np.uint64)
    records[:: cuckoo.RECORD] = np.random.default_rng(2).integers(0, 2**63, len(slots), dtype=np.uint64)
    every = np.arange(len(slots))
    inserted: int = cuckoo.insert(slots, np.zeros(1, np.uint64), records, every, 0)
    return inserted / len(slots)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="resident ids")
    rows = parser.parse_args().rows
    benchmark = Benchmark("table")
    benchmark.measured["rows"] = rows
    torch.set_num_threads(1)
    benchmark.say("memory per id")
    per_id = bytes_per_id(rows)
    benchmark.measured["bytes_per_id"] = per_id
    benchmark.bar("bytes_over_payload", per_id / VECTOR_AND_STATE, at_most=1.5)
    benchmark.bar("load_at_first_failure", load_at_first_failure(1 << 17), at_least=0.95)
    benchmark.say(f"filling {rows} rows")
    setting = Setting(rows)
    results = benchmark.alternate(gather_sides(setting), ROUNDS)
    benchmark.ratio_bar("gather_over_take", results, "gather_per_second", "take_per_second", at_least=0.4)
    results = benchmark.alternate(update_sides(setting), ROUNDS)
    benchmark.ratio_bar(
        "update_over_bare", results, "update_per_second", "bare_update_per_second", at_least=0.5
    )
    results = benchmark.alternate(thread_sides(setting), ROUNDS)
    benchmark.ratio_bar(
        "two_threads_over_one", results, "two_threads_per_second", "one_thread_per_second", at_least=1.6
    )
    sides = {
        "update_beside_dict_per_second": update_sides(setting)["update_per_second"],
        "dict_per_second": dict_side(setting),
    }
    results = benchmark.alternate(sides, 3)
    benchmark.ratio_bar(
        "update_over_dict", results, "update_beside_dict_per_second", "dict_per_second", at_least=20
    )
    benchmark.finish()


if __name__ == "__main__":
    main()

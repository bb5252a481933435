"""What a feed's candidates cost: beam and rerank against brute force and against HNSW, on one thread.

    scripts/bench retrieval_cost

The catalogue is synthetic (`catalogue/structure.py`). HNSW (faiss-cpu, M 24, efSearch 200) is what a team
would pick instead; where faiss is missing its bar is null. Recall of the true 100 best is beside every time,
and we are timed at the cheapest of `SETTINGS` that finds what HNSW finds, to within `SLACK`: cost alone could
be had by finding less.

The same setting finds less of the best 100 of 10 M items than of 0.1 M: `time_growth` is what more items cost
a search that goes equally far. What it costs to find the same share, HNSW's at `items` items, is measured
beside it: `time_growth_at_recall`.

An item has three paths, as it has by default. In this catalogue it has one facet, so that copies on paths
that differ in a word are scored in vain: what one path an item costs is measured beside it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from catalogue.peers import Search, brute, hnsw, recall
from catalogue.structure import Catalogue, Placed, Setting
from harness import Benchmark

BEAMS = (15, 25, 25, 40, 50, 80, 120, 200, 400, 800)
LIMITS = (300, 500, 1000, 1000, 2000, 3000, 4000, 6000, 12_000, 24_000)
SETTINGS = tuple(map(Setting, BEAMS, LIMITS))
PATHS = 3
SLACK = 0.01
RECALL_WITHOUT_HNSW = 0.95
TIMED, CHECKED, BRUTE = 1000, 128, 32
"""Users that are timed, whose recall is measured, and that brute force is timed on."""


@dataclass(frozen=True)
class Point:
    """A setting, what it finds and what it costs."""

    setting: Setting
    recall: float
    micros: float

    def told(self) -> dict[str, float]:
        """For the JSON line."""
        return {
            "beam": self.setting.beam,
            "limit": self.setting.limit,
            "recall_at_100": self.recall,
            "us": self.micros,
        }


def main(
    items: Annotated[int, typer.Option(help="Items of the catalogue.", min=1000)] = 1_500_000,
    quick: Annotated[bool, typer.Option(help="Catalogues of a hundredth of the size.")] = False,  # noqa: FBT002
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure, and print the JSON line."""
    torch.set_num_threads(1)
    benchmark = Benchmark("retrieval_cost")
    part = 100 if quick else 1
    setting, wanted = _compare(benchmark, items // part, rounds)
    gc.collect()
    _growth(benchmark, (100_000 // part, 10_000_000 // part), setting, wanted, rounds)
    benchmark.finish()


def _compare(benchmark: Benchmark, items: int, rounds: int) -> tuple[Setting, float]:
    """Against brute force and HNSW; the setting at which, and the recall that it had to have."""
    catalogue = _made(benchmark, items)
    users = catalogue.users(TIMED)
    exact = brute(catalogue.vectors)
    truth = exact(users[:CHECKED])
    peer = hnsw(catalogue.vectors, benchmark.say)
    wanted = RECALL_WITHOUT_HNSW
    if peer is not None:
        benchmark.measured["hnsw_recall_at_100"] = recall(peer(users[:CHECKED]), truth)
        wanted = benchmark.measured["hnsw_recall_at_100"] - SLACK
    single = _frontier(benchmark, catalogue.placed(1), users, truth, "with_one_path")
    benchmark.measured["with_one_path_at_recall"] = _cheapest(single, wanted).told()
    placed = catalogue.placed(PATHS)
    chosen = _cheapest(_frontier(benchmark, placed, users, truth, "frontier"), wanted)
    benchmark.measured["setting"] = chosen.told()
    sides = {
        "deep_retrieval_us": partial(_micros, partial(_rows, placed, chosen.setting), users),
        "brute_force_us": partial(_micros, exact, users[:BRUTE]),
    }
    if peer is not None:
        sides["hnsw_us"] = partial(_micros, peer, users)
    results = benchmark.alternate(sides, rounds)
    benchmark.ratio_bar("time_over_brute", results, "deep_retrieval_us", "brute_force_us", at_most=0.15)
    if peer is None:
        reason = "faiss is not installed"
        benchmark.bars["time_over_hnsw"] = {"value": None, "at_most": 1.0, "met": None, "reason": reason}
    else:
        benchmark.ratio_bar("time_over_hnsw", results, "deep_retrieval_us", "hnsw_us", at_most=1.0)
    benchmark.measured["one_user_a_call_us"] = _one_by_one(placed, chosen.setting, users)
    return chosen.setting, wanted


def _growth(
    benchmark: Benchmark, sizes: tuple[int, int], setting: Setting, wanted: float, rounds: int
) -> None:
    """What the same setting costs, and finds, on a small catalogue and on a large one."""
    sides: dict[str, Callable[[], float]] = {}
    for name, items in zip(("small", "large"), sizes, strict=True):
        catalogue = _made(benchmark, items)
        placed, users = catalogue.placed(PATHS), catalogue.users(TIMED)
        truth = brute(catalogue.vectors)(users[:BRUTE])
        found = recall(placed.retrieve(users[:BRUTE], setting).rows, truth)
        benchmark.measured[f"{name}_recall_at_100"] = found
        good = _cheapest(_frontier(benchmark, placed, users, truth, f"{name}_frontier"), wanted)
        benchmark.measured[f"{name}_at_recall"] = good.told()
        sides[f"{name}_us"] = partial(_micros, partial(_rows, placed, setting), users)
        sides[f"{name}_at_recall_us"] = partial(_micros, partial(_rows, placed, good.setting), users)
    results = benchmark.alternate(sides, rounds)
    ratios = [r["large_at_recall_us"] / r["small_at_recall_us"] for r in results]
    benchmark.measured["time_growth_at_recall"] = statistics.median(ratios)
    benchmark.ratio_bar("time_growth", results, "large_us", "small_us", at_most=2.0)


def _made(benchmark: Benchmark, items: int) -> Catalogue:
    began = time.perf_counter()
    catalogue = Catalogue.of(items)
    depth, nodes = catalogue.words.shape[:2]
    took = time.perf_counter() - began
    benchmark.say(f"{items:,} items on {depth} layers of {nodes} nodes, made in {took:.0f} s")
    return catalogue


def _frontier(
    benchmark: Benchmark, placed: Placed, users: np.ndarray, truth: np.ndarray, name: str
) -> list[Point]:
    """What each setting finds and costs, the best of three times; kept in `measured` as `name`."""
    points = []
    for setting in SETTINGS:
        search = partial(_rows, placed, setting)
        found = recall(search(users[: len(truth)]), truth)
        points.append(Point(setting, found, min(_micros(search, users) for _ in range(3))))
        benchmark.say(f"{name}: {points[-1].told()}")
    benchmark.measured[name] = [point.told() for point in points]
    return points


def _cheapest(points: list[Point], wanted: float) -> Point:
    """The cheapest that finds `wanted`, or what finds most."""
    good = [point for point in points if point.recall >= wanted]
    return min(good, key=lambda p: p.micros) if good else max(points, key=lambda p: p.recall)


def _rows(placed: Placed, setting: Setting, users: np.ndarray) -> np.ndarray:
    return placed.retrieve(users, setting).rows


def _micros(search: Search, users: np.ndarray) -> float:
    """Microseconds a user."""
    began = time.perf_counter()
    search(users)
    return (time.perf_counter() - began) / len(users) * 1e6


def _one_by_one(placed: Placed, setting: Setting, users: np.ndarray) -> float:
    """What a user costs where every call brings one, Python's share included."""
    began = time.perf_counter()
    for i in range(len(users)):
        placed.retrieve(users[i : i + 1], setting)
    return (time.perf_counter() - began) / len(users) * 1e6


if __name__ == "__main__":
    typer.run(main)

"""Deep Retrieval against a brute-force softmax over all items by the same base model, on real check-ins.

    scripts/bench retrieval --data ../shared/data/gowalla

The base is fitted on train and valid, both sides recommend from it, the test split judges. `--quick` takes
few users and epochs, to see that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import torch
import typer
from harness import Benchmark

sys.path.insert(0, str(Path(__file__).with_name("gowalla")))

from base import Base, Fit, brute_force, degrees, fit
from checkins import Checkins, load, quality
from deep import Learned, Schedule, learn, recommend

from schema.config import RetrievalConfig

TOP = 50
CONFIG = RetrievalConfig(
    history="checkins",
    nodes=200,
    depth=2,
    paths=3,
    beam=50,
    rerank=409,
    hidden=128,
    penalty=2e-3,
    pool="sqrtn",
)
"""409 items are 1 % of the catalogue: no user has more of them reranked."""


def main(
    data: Annotated[Path, typer.Option(help="The folder of interactions.parquet.")],
    quick: Annotated[bool, typer.Option(help="A few users and epochs.")] = False,  # noqa: FBT002
    threads: Annotated[int, typer.Option(help="torch's threads.", min=1)] = 2,
) -> None:
    """Measure, and print the JSON line."""
    benchmark = Benchmark("retrieval")
    if not (data / "interactions.parquet").is_file():
        benchmark.say(
            f"--data: no interactions.parquet in {data}; legal is the folder of the Gowalla check-ins"
        )
        raise typer.Exit(1)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    _measure(benchmark, load(data, 2000 if quick else None), quick=quick)
    benchmark.finish()


def _measure(benchmark: Benchmark, checkins: Checkins, *, quick: bool) -> None:
    began = time.monotonic()
    base = fit(checkins, Fit(dim=32, epochs=1) if quick else Fit(), benchmark.say)
    exact = quality(brute_force(base, checkins, TOP), checkins.hidden)
    benchmark.say(f"brute force: {exact}")
    schedule = Schedule(rounds=1) if quick else Schedule()
    deep = learn(checkins, base, CONFIG, schedule, benchmark.say)
    best, found = recommend(checkins, base, deep, CONFIG, TOP)
    ours, popular = quality(best, checkins.hidden), quality(_popular(checkins), checkins.hidden)
    benchmark.bar("recall_at_10_over_brute", ours["recall_at_10"] / exact["recall_at_10"], at_least=0.98)
    benchmark.bar("recall_at_50_over_brute", ours["recall_at_50"] / exact["recall_at_50"], at_least=0.98)
    benchmark.bar("ndcg_over_brute", ours["ndcg_at_50"] / exact["ndcg_at_50"], at_least=0.98)
    benchmark.bar("share_reranked", float(found.reranked.max()) / checkins.items, at_most=0.01)
    benchmark.bar("base_recall_at_20", exact["recall_at_20"], at_least=0.15)
    benchmark.bar("recall_over_popularity", ours["recall_at_50"] / popular["recall_at_50"], at_least=1.5)
    largest = int(deep.learner.structure.index().sizes().max())
    benchmark.bar("largest_path_share", largest / checkins.items, at_most=0.01)
    benchmark.measured |= {
        "brute_force": exact,
        "deep_retrieval": ours,
        "popularity": popular,
        "mean_items_reranked": float(found.reranked.mean()),
        "largest_path_items": largest,
        "recall_at_50_over_brute_by_beam": _by_beam(checkins, base, deep, exact["recall_at_50"]),
        "ablations": _ablations(benchmark, checkins, base, exact["recall_at_50"], schedule),
    }
    benchmark.measured["seconds"] = time.monotonic() - began


def _by_beam(checkins: Checkins, base: Base, deep: Learned, exact: float) -> dict[str, dict[str, float]]:
    """What narrower and wider beams find, and of how many items."""
    results = {}
    for beam in (10, 25, 100):
        config = msgspec.structs.replace(CONFIG, beam=beam)
        best, found = recommend(checkins, base, deep, config, TOP)
        ratio = quality(best, checkins.hidden)["recall_at_50"] / exact
        results[str(beam)] = {"ratio": ratio, "mean_items_reranked": float(found.reranked.mean())}
    return results


def _ablations(
    benchmark: Benchmark, checkins: Checkins, base: Base, exact: float, schedule: Schedule
) -> dict[str, dict[str, float]]:
    """What is lost without one of the parts, all with the same number of items reranked."""
    changes = {
        "one_path_an_item": (msgspec.structs.replace(CONFIG, paths=1), schedule),
        "no_penalty": (msgspec.structs.replace(CONFIG, penalty=0.0), schedule),
        "random_frozen_paths": (CONFIG, replace(schedule, frozen=True)),
    }
    results = {}
    for name, (config, how) in changes.items():
        benchmark.say(f"without: {name}")
        deep = learn(checkins, base, config, how, benchmark.say)
        best, found = recommend(checkins, base, deep, config, TOP)
        results[name] = {
            "recall_at_50_over_brute": quality(best, checkins.hidden)["recall_at_50"] / exact,
            "mean_items_reranked": float(found.reranked.mean()),
            "largest_path_items": int(deep.learner.structure.index().sizes().max()),
        }
        benchmark.say(f"{name}: {results[name]}")
    return results


def _popular(checkins: Checkins) -> np.ndarray:
    """For every user the most popular items that are not known, (users, TOP)."""
    known = checkins.known
    longest = int(np.diff(known.starts).max())
    ranking = np.argsort(-degrees(checkins), kind="stable")[: longest + TOP]
    best = np.empty((checkins.users, TOP), np.int64)
    for user in range(checkins.users):
        mine = known.items[known.starts[user] : known.starts[user + 1]]
        best[user] = ranking[: len(mine) + TOP][~np.isin(ranking[: len(mine) + TOP], mine)][:TOP]
    return best


if __name__ == "__main__":
    typer.run(main)

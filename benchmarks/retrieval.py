"""Deep Retrieval against a brute-force softmax over all items by the same base model, on real check-ins.

    scripts/bench retrieval --data ../shared/data/gowalla

The base is fitted on train and valid, both sides recommend from it, the test split judges. All settings were
chosen on the valid split with a base fitted on train alone, which is what `--judge valid` does. The structure
learns from the base's first items for nine users of ten; the tenth ones' figures are given apart, too.

`--quick` takes few users and epochs, to see that everything runs: its figures mean nothing.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import torch
import typer
from gowalla.base import Base, Fit, brute_force, degrees, fit
from gowalla.checkins import I64, Checkins, load, quality
from gowalla.deep import Learned, Schedule, Teacher, learn, recommend
from harness import Benchmark

from schema.config import RetrievalConfig

TOP, TAUGHT, UNSEEN = 50, 100, 10
"""Items judged, and items a structure learns from, of each user; it never sees every `UNSEEN`-th user."""

CONFIG = RetrievalConfig(
    history="checkins",
    nodes=100,
    depth=2,
    paths=3,
    beam=50,
    rerank=409,
    hidden=256,
    penalty=1e-4,
    pool="sqrtn",
    scored_paths=60,
    score_beam=50,
    score_decay=1.0,
)
"""409 items are 1 % of the catalogue: no user has more of them reranked. Scores are forgotten each round."""

BARS = {
    "recall_at_10_over_brute": "recall_at_10_over_brute",
    "recall_at_50_over_brute": "recall_at_50_over_brute",
    "ndcg_over_brute": "ndcg_at_50_over_brute",
}
PRINTED = ("nodes", "depth", "paths", "beam", "rerank", "hidden", "penalty", "scored_paths", "score_beam")


@dataclass(frozen=True)
class _Run:
    """A fitted base, what it recommends by brute force, and what the structures learn from."""

    checkins: Checkins
    base: Base
    exact: I64
    teacher: Teacher
    schedule: Schedule

    def learn(self, benchmark: Benchmark, config: RetrievalConfig, schedule: Schedule) -> Learned:
        """A structure as `config` and `schedule` say."""
        return learn(self.teacher, self.checkins.items, config, schedule, benchmark.say)

    def result(self, deep: Learned, config: RetrievalConfig) -> dict[str, float]:
        """What `deep` finds over what brute force finds, and of how many items."""
        best, found = recommend(self.checkins, self.base, deep, config, TOP)
        return self.ratios(best) | {
            "mean_items_reranked": float(found.reranked.mean()),
            "most_items_reranked": float(found.reranked.max()),
            "largest_path_items": float(deep.learner.structure.sizes().max()),
        }

    def ratios(self, best: I64) -> dict[str, float]:
        """The quality of `best` over that of brute force; `unseen_` for users whom no structure has seen."""
        every = np.arange(self.checkins.users)
        ratios: dict[str, float] = {}
        for part, users in (("", every), ("unseen_", every[::UNSEEN])):
            hidden = self.checkins.hidden.only(users)
            exact = quality(self.exact[users], hidden)
            ratios |= {f"{part}{k}_over_brute": v / exact[k] for k, v in quality(best[users], hidden).items()}
        return ratios


def main(
    data: Annotated[Path, typer.Option(help="The folder of interactions.parquet.")],
    judge: Annotated[
        Literal["test", "valid"], typer.Option(help="The split that judges; valid to choose settings by.")
    ] = "test",
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
    began = time.monotonic()
    run = _prepared(benchmark, load(data, judge, 2000 if quick else None), quick=quick)
    _measure(benchmark, run)
    benchmark.measured |= {"judge": judge, "seconds": time.monotonic() - began}
    benchmark.finish()


def _prepared(benchmark: Benchmark, checkins: Checkins, *, quick: bool) -> _Run:
    how = Fit(dim=32, epochs=1) if quick else Fit()
    schedule = Schedule(rounds=1, epochs=1, last=1) if quick else Schedule()
    base = fit(checkins, how, benchmark.say)
    first = brute_force(base, checkins, TAUGHT)
    taught = np.arange(checkins.users) % UNSEEN > 0
    teacher = Teacher(base.all_users(checkins)[taught], first[taught])
    benchmark.measured["settings"] = {
        "base": asdict(how),
        "schedule": asdict(schedule),
        "structure": {k: getattr(CONFIG, k) for k in PRINTED},
        "items_taught": TAUGHT,
    }
    benchmark.say(f"settings: {benchmark.measured['settings']}")
    return _Run(checkins, base, first[:, :TOP], teacher, schedule)


def _measure(benchmark: Benchmark, run: _Run) -> None:
    hidden = run.checkins.hidden
    exact, popular = quality(run.exact, hidden), quality(_popular(run.checkins), hidden)
    benchmark.say(f"brute force: {exact}")
    deep = run.learn(benchmark, CONFIG, run.schedule)
    ours = run.result(deep, CONFIG)
    benchmark.say(f"Deep Retrieval: {ours}")
    for bar, name in BARS.items():
        benchmark.bar(bar, ours[name], at_least=0.98)
    items = run.checkins.items
    benchmark.bar("share_reranked", ours["most_items_reranked"] / items, at_most=0.01)
    benchmark.bar("base_recall_at_20", exact["recall_at_20"], at_least=0.15)
    recall = ours["recall_at_50_over_brute"] * exact["recall_at_50"]
    benchmark.bar("recall_over_popularity", recall / popular["recall_at_50"], at_least=1.5)
    benchmark.bar("largest_path_share", ours["largest_path_items"] / items, at_most=0.01)
    benchmark.measured |= {
        "brute_force": exact,
        "popularity": popular,
        "deep_retrieval": ours,
        "by_beam": {
            str(beam): run.result(deep, msgspec.structs.replace(CONFIG, beam=beam)) for beam in (5, 10, 25)
        },
        "ablations": _ablations(benchmark, run),
    }


def _ablations(benchmark: Benchmark, run: _Run) -> dict[str, dict[str, float]]:
    """What is lost without one of the parts, all with the same number of items reranked."""
    changes = {
        "one_path_an_item": (msgspec.structs.replace(CONFIG, paths=1), run.schedule),
        "no_penalty": (msgspec.structs.replace(CONFIG, penalty=0.0), run.schedule),
        "random_frozen_paths": (CONFIG, replace(run.schedule, frozen=True)),
    }
    results = {}
    for name, (config, schedule) in changes.items():
        benchmark.say(f"without: {name}")
        results[name] = run.result(run.learn(benchmark, config, schedule), config)
        benchmark.say(f"{name}: {results[name]}")
    return results


def _popular(checkins: Checkins) -> I64:
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

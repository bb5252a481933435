"""What a feed's candidates cost: beam and rerank against brute force and against HNSW, on one thread.

    scripts/bench retrieval_cost

The catalogue is synthetic: an item's vector is a sum of D code words and noise, its first path is its code
words, its others differ in the one that matters least; a user is the mean of a history. The network is the
one that knows the code words, so that what the beam finds can be compared with what is there; cost depends
on neither. HNSW (faiss-cpu, M 24, efSearch 200) is what a team would pick instead; where faiss is missing
its bar is null.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from harness import Benchmark

from models.retrieval.beam import Reranker, retrieve
from models.retrieval.inverted import InvertedIndex, build_index
from models.retrieval.weights import BeamWeights

DIM, TOP, PATHS, BEAM, LIMIT, HISTORY = 64, 100, 3, 25, 1000, 5
CHUNK = 100_000
"""Items whose vectors are made at a time, so that a large catalogue is in memory once."""
SHIFT = np.float32(64.0)
"""Larger than any input, so that a hidden unit passes its input on, whatever its sign."""


@dataclass(frozen=True)
class Catalogue:
    """Items placed on a structure of K nodes in D layers."""

    weights: BeamWeights
    index: InvertedIndex
    reranker: Reranker

    def retrieve(self, users: np.ndarray) -> np.ndarray:
        """The rows of the best items of `users` (n, DIM), (n, TOP)."""
        found = retrieve(self.weights, self.index, self.reranker, users, beam=BEAM, limit=LIMIT, top=TOP)
        return found.rows


def make(items: int, nodes: int, depth: int) -> Catalogue:
    """A catalogue of `items` items."""
    rng = np.random.default_rng(items)
    words = rng.normal(size=(depth, nodes, DIM)).astype(np.float32)
    codes = rng.integers(0, nodes, (items, depth), dtype=np.int32)
    vectors = rng.standard_normal((items, DIM), dtype=np.float32)
    for start in range(0, items, CHUNK):
        part, chosen = vectors[start : start + CHUNK], codes[start : start + CHUNK]
        part *= np.float32(0.5)
        for d in range(depth):
            part += words[d][chosen[:, d]]
    paths = np.empty((items, PATHS), np.int32)
    for start in range(0, items, CHUNK):
        part = slice(start, start + CHUNK)
        paths[part] = _paths(vectors[part], codes[part], words)
    reranker = Reranker(vectors, np.zeros(items, np.float32))
    return Catalogue(_network(words), build_index(paths, nodes**depth), reranker)


def _paths(vectors: np.ndarray, codes: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Codes (n, PATHS): an item's own path, and those with one other word where that costs least."""
    depth, nodes = words.shape[:2]
    places, every = np.int32(nodes) ** np.arange(depth - 1, -1, -1, dtype=np.int32), np.arange(len(codes))
    losses, others = [], []
    for d in range(depth):
        scores = vectors @ words[d].T
        own = scores[every, codes[:, d]].copy()
        scores[every, codes[:, d]] = -np.inf
        others.append(scores.argmax(axis=1))
        losses.append(own - scores[every, others[d]])
    order = np.argsort(np.stack(losses, axis=1), axis=1)
    paths = np.repeat((codes @ places)[:, None], PATHS, axis=1)
    for j in range(1, PATHS):
        d = order[:, j - 1]
        paths[:, j] += (np.stack(others, axis=1)[every, d] - codes[every, d]) * places[d]
    return paths


def _network(words: np.ndarray) -> BeamWeights:
    """Log p(c | x) = sum_d x @ words[d, c_d] less a constant: hidden units are the inputs, shifted."""
    depth, nodes, dim = words.shape
    return BeamWeights(
        np.tile(np.eye(dim, dtype=np.float32), (depth, 1, 1)),
        np.full((depth, dim), SHIFT),
        np.zeros((depth * (depth - 1) // 2, nodes, dim), np.float32),
        np.ascontiguousarray(words.transpose(0, 2, 1)),
        -SHIFT * words.sum(axis=2),
    )


def _users(count: int, vectors: np.ndarray) -> np.ndarray:
    """Users (count, DIM) as a tower makes them: the mean of the vectors of a history of `HISTORY` items."""
    history = np.random.default_rng(1).integers(0, len(vectors), (count, HISTORY))
    return vectors[history].mean(axis=1)


def _brute(vectors: torch.Tensor, users: np.ndarray) -> np.ndarray:
    scores = torch.from_numpy(users) @ vectors.T
    return scores.topk(TOP, dim=1).indices.numpy()


def _micros(work: Callable[[np.ndarray], object], users: np.ndarray) -> float:
    """Microseconds a user."""
    began = time.perf_counter()
    work(users)
    return (time.perf_counter() - began) / len(users) * 1e6


def _hnsw(vectors: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """A search by faiss's HNSW over `vectors`, or None where faiss is not installed."""
    if importlib.util.find_spec("faiss") is None:
        return None
    faiss: Any = importlib.import_module("faiss")
    # all cores build, one searches
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexHNSWFlat(DIM, 24, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    index.hnsw.efSearch = 200
    faiss.omp_set_num_threads(1)
    return lambda users: index.search(users, TOP)[1]


def _recall(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, exact, strict=True)]))


def main(
    items: Annotated[int, typer.Option(help="Items of the catalogue.", min=1000)] = 1_500_000,
    quick: Annotated[bool, typer.Option(help="Catalogues of a hundredth of the size.")] = False,  # noqa: FBT002
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Measure, and print the JSON line."""
    torch.set_num_threads(1)
    benchmark = Benchmark("retrieval_cost")
    part = 100 if quick else 1
    _compare(benchmark, items // part, rounds)
    gc.collect()
    _growth(benchmark, 100_000 // part, 10_000_000 // part, rounds)
    benchmark.finish()


def _compare(benchmark: Benchmark, items: int, rounds: int) -> None:
    nodes, depth = _sizes(items)
    benchmark.say(f"{items:,} items on {depth} layers of {nodes} nodes")
    catalogue = make(items, nodes, depth)
    vectors = torch.from_numpy(catalogue.reranker.vectors)
    ours, exact = _users(1000, catalogue.reranker.vectors), _users(32, catalogue.reranker.vectors)
    sides = {
        "deep_retrieval_us": partial(_micros, catalogue.retrieve, ours),
        "brute_force_us": partial(_micros, partial(_brute, vectors), exact),
    }
    truth = _brute(vectors, exact)
    benchmark.measured["deep_retrieval_recall_at_100"] = _recall(catalogue.retrieve(exact), truth)
    hnsw = _hnsw(catalogue.reranker.vectors)
    if hnsw is not None:
        sides["hnsw_us"] = partial(_micros, hnsw, ours)
        benchmark.measured["hnsw_recall_at_100"] = _recall(hnsw(exact), truth)
    results = benchmark.alternate(sides, rounds)
    benchmark.ratio_bar("time_over_brute", results, "deep_retrieval_us", "brute_force_us", at_most=0.15)
    if hnsw is None:
        reason = "faiss is not installed"
        benchmark.bars["time_over_hnsw"] = {"value": None, "at_most": 1.0, "met": None, "reason": reason}
    else:
        benchmark.ratio_bar("time_over_hnsw", results, "deep_retrieval_us", "hnsw_us", at_most=1.0)
    benchmark.measured["one_user_a_call_us"] = _one_by_one(catalogue, ours)


def _one_by_one(catalogue: Catalogue, users: np.ndarray) -> float:
    """What a user costs where every call brings one, Python's share included."""
    began = time.perf_counter()
    for i in range(len(users)):
        catalogue.retrieve(users[i : i + 1])
    return (time.perf_counter() - began) / len(users) * 1e6


def _growth(benchmark: Benchmark, small: int, large: int, rounds: int) -> None:
    sides = {}
    for name, items in (("small_us", small), ("large_us", large)):
        nodes, depth = _sizes(items)
        benchmark.say(f"{items:,} items on {depth} layers of {nodes} nodes")
        catalogue = make(items, nodes, depth)
        sides[name] = partial(_micros, catalogue.retrieve, _users(1000, catalogue.reranker.vectors))
    results = benchmark.alternate(sides, rounds)
    benchmark.ratio_bar("time_growth", results, "large_us", "small_us", at_most=2.0)


def _sizes(items: int) -> tuple[int, int]:
    """K and D: paths of 30 items in two layers of at most 100 nodes, or else in three of at most 80.

    Longer paths cost nothing, since no more than `LIMIT` of their items are reranked; wider layers would.
    """
    paths = items * PATHS / 30
    if paths <= 100**2:
        return max(2, round(paths**0.5)), 2
    return min(80, round(paths ** (1 / 3))), 3


if __name__ == "__main__":
    typer.run(main)

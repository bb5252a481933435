"""Slow, obvious versions of what `models.retrieval` does."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from models.retrieval.weights import BeamWeights

F64 = NDArray[np.float64]


def random_weights(rng: np.random.Generator, dim: int, nodes: int, depth: int, hidden: int) -> BeamWeights:
    """Weights of a network that is not nearly uniform."""

    def normal(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    pairs = depth * (depth - 1) // 2
    return BeamWeights(
        normal(depth, dim, hidden),
        normal(depth, hidden),
        normal(pairs, nodes, hidden),
        normal(depth, hidden, nodes) / np.float32(np.sqrt(hidden)),
        normal(depth, nodes),
    )


def log_prob(weights: BeamWeights, user: F64, nodes: tuple[int, ...]) -> float:
    """Log p of the path through `nodes`, layer by layer."""
    total = 0.0
    for d, node in enumerate(nodes):
        hidden = weights.user_in[d].astype(np.float64).T @ user + weights.user_bias[d]
        for i in range(d):
            hidden = hidden + weights.node_in[d * (d - 1) // 2 + i, nodes[i]]
        logits = weights.out[d].astype(np.float64).T @ np.maximum(hidden, 0) + weights.out_bias[d]
        total += float(logits[node] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    return total


def all_paths(weights: BeamWeights, user: F64) -> F64:
    """Log p of every path, by its code."""
    every = product(range(weights.nodes), repeat=weights.depth)
    return np.array([log_prob(weights, user, nodes) for nodes in every])


def updated(recorded: dict[int, float], beam: dict[int, float], kept: int, decay: float) -> dict[int, float]:
    """One pair's update of an item's scores."""
    start = decay * min(recorded.values()) if len(recorded) == kept else 0.0
    scores = {path: decay * score + beam.get(path, 0.0) for path, score in recorded.items()}
    scores |= {path: start + p for path, p in beam.items() if path not in recorded}
    best = sorted(scores, key=lambda path: -scores[path])[:kept]
    return {path: scores[path] for path in best}


def objective(scores: list[dict[int, float]], weights: F64, placed: NDArray[np.int32], alpha: float) -> float:
    """sum_v N_v log sum_j s[v, path_j(v)] - alpha sum_c |c|^4 / 4."""
    value = 0.0
    sizes: dict[int, int] = {}
    for v, paths in enumerate(placed.tolist()):
        value += weights[v] * np.log(sum(scores[v].get(c, 0.0) for c in paths))
        for c in paths:
            sizes[c] = sizes.get(c, 0) + 1
    return float(value - alpha * sum(n**4 for n in sizes.values()) / 4)


def swept(
    scores: list[dict[int, float]], weights: F64, placed: list[list[int]], alpha: float
) -> list[list[int]]:
    """One pass of the M-step, from every item's scores as a dict."""
    placed = [list(paths) for paths in placed]
    for v, paths in enumerate(placed):
        slots, old = len(paths), list(paths)
        paths.clear()
        for _ in range(slots):
            sizes = [c for other in placed for c in other if c >= 0]
            had = sum(scores[v][c] for c in paths if c in scores[v])

            def gain(c: int, had: float = had, sizes: list[int] = sizes, v: int = v) -> float:
                grown = (sizes.count(c) + 1) ** 4 - sizes.count(c) ** 4
                before = np.log(had) if had else 0.0
                return float(weights[v] * (np.log(had + scores[v][c]) - before) - alpha * grown / 4)

            free = [c for c in scores[v] if c not in paths]
            spare = [c for c in old if c >= 0 and c not in paths]
            paths.append(max(free, key=gain) if free else (spare or [-1])[0])
    return placed

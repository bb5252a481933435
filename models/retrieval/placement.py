"""Paths of items that no M-step has placed yet: at random, or from what is known of who will like them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.retrieval.beam import search
from models.retrieval.delta import mix64
from models.retrieval.em import PathScores, sweep
from models.retrieval.weights import BeamWeights
from schema.records import F32

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]


def random_paths(items: I64, total_paths: int, slots: int, seed: int) -> I32:
    """Distinct paths i32 (n, J) of each item, a pure function of (`seed`, item), whatever comes before it.

    Raises:
        ValueError: an item would need more paths than there are.
    """
    if slots > total_paths:
        raise ValueError(f"slots: {slots}; legal is at most the number of paths, {total_paths}")
    state = mix64(items.astype(np.uint64) ^ mix64(np.array([seed], np.uint64)))
    paths = np.full((len(items), slots), -1, np.int32)
    for j in range(slots):
        state = mix64(state)
        path = (state % np.uint64(total_paths)).astype(np.int32)
        while True:
            taken = (paths[:, :j] == path[:, None]).any(axis=1)
            if not taken.any():
                break
            path[taken] = (path[taken] + 1) % total_paths
        paths[:, j] = path
    return paths


def best_free_paths(  # noqa: PLR0917 - all of them say where an item may go
    weights: BeamWeights, likely_users: F32, sizes: I64, slots: int, beam: int, alpha: float
) -> I32:
    """Paths i32 (n, J) of n new items in turn, by the mean vector of each one's likely users, f32 (n, dim).

    An item takes, of the beam of that vector, the paths with the highest log-probability less the growth of
    the penalty, so that a full path gives way to the next best; its unfilled slots are -1. Likely users are
    those who have engaged with it so far, or with items whose content is alike. `sizes` i64 (K^D,) is brought
    up to date.
    """
    found = search(weights, likely_users, beam)
    scores = PathScores(found.paths, np.exp(found.log_probs), np.ones(len(likely_users), np.float32))
    placed = np.full((len(likely_users), slots), -1, np.int32)
    sweep(scores, alpha, sizes, placed)
    return placed

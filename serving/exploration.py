"""Exploration: now and then a position shows an item at random, and the log says how likely that was.

Without it position bias cannot be told from quality, and what is never shown is never learned. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schema.records import F32, I64


@dataclass(frozen=True, slots=True)
class Slate:
    """What is shown: candidate indices by position, and the probability that each had to be shown there.

    Attributes:
        chosen: int64 (k,).
        propensities: f32 (k,), each given what the positions before it show.
        explored: bool (k,), whether the item was drawn at random.
    """

    chosen: I64
    propensities: F32
    explored: np.typing.NDArray[np.bool_]


def slate(order: I64, size: int, share: float, rng: np.random.Generator) -> Slate:
    """The first `size` of `order`, but each position shows, with probability `share`, an item drawn evenly.

    At a position, n candidates are left. Its item is the best of them with probability 1 - share, and else
    any of them: the best is shown with probability 1 - share + share / n, each other one with share / n.

    Args:
        order: candidate indices, the best first, shape (n,).
        size: how many are wanted; fewer where there are fewer.
        share: in [0, 1].
        rng: the randomness.
    """
    size = min(size, len(order))
    explored = rng.random(size) < share
    left = np.arange(len(order), len(order) - size, -1)
    if not explored.any():
        best = (1.0 - share + share / left).astype(np.float32)
        return Slate(order[:size].copy(), best, explored)
    propensities = np.where(explored, share / left, 1.0 - share + share / left)
    remaining, chosen = order.tolist(), []
    for position in range(size):
        at = int(rng.integers(len(remaining))) if explored[position] else 0
        if at == 0:
            # drawn or not, it is the best: both ways of showing it count
            propensities[position] = 1.0 - share + share / left[position]
        chosen.append(remaining.pop(at))
    return Slate(np.array(chosen, np.int64), propensities.astype(np.float32), explored)

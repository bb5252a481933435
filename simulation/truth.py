"""The ground truth of the simulated world: what items are, what users like, and how likely they act.

Nothing here is sent to anyone but through `catalogue`; quality is judged against it. Pure; every draw
comes from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.config import SimulationConfig
from schema.records import I64

F64 = NDArray[np.float64]

KINDS: Final = ("click", "long_view", "like")
RATES: Final = {"click": 0.30, "long_view": 0.15, "like": 0.03}
"""The share of impressions with each action when feeds are drawn at random."""

GROUPS: Final = 8
"""Age groups: a user's profile names one, and its members' tastes resemble each other."""

_POSITIONS: Final = 10
_POSITION_DECAY: Final = 0.93
_CALIBRATION_PAIRS: Final = 20_000
_WORLD: Final = 0
_VISIT: Final = 1


@dataclass(frozen=True, slots=True)
class Items:
    """The items, ids 0 to n-1: topic, author, type (0 or 1), quality (about -2 to 2), seconds; shape (n,)."""

    topics: I64
    authors: I64
    types: I64
    qualities: F64
    durations: F64


@dataclass(frozen=True, slots=True)
class Users:
    """The users, ids 0 to n-1: age group, shape (n,), and share of interest by topic, shape (n, topics)."""

    groups: I64
    tastes: F64


class World:
    """Items, users, and the probabilities of what they do.

    A user looks at position p with probability 0.93 ** p, clicks what is looked at with probability
    sigmoid(appeal + a), where appeal = log(taste * topics) + quality, and gives a clicked item a long view
    and a like by two more such sigmoids. The intercepts are set so that feeds drawn at random get RATES.

    Args:
        config: the numbers of users, items and topics, and the seed.
    """

    def __init__(self, config: SimulationConfig) -> None:
        rng = np.random.default_rng([config.seed, _WORLD])
        self.seed = config.seed
        self.surfaces = config.surfaces
        self.items = _items(rng, config)
        self.users = _users(rng, config)
        self._intercepts = self._calibrate(rng)

    def visit(self, number: int) -> np.random.Generator:
        """The randomness of the visit of that number: the same whenever, and beside whatever, it happens."""
        return np.random.default_rng([self.seed, _VISIT, number])

    def interest(self, user: int, items: I64) -> F64:
        """The probability that `user` clicks each of `items` when looking at it, shape (n,)."""
        return _sigmoid(self._appeal(np.full(len(items), user), items) + self._intercepts["click"])

    def probabilities(self, user: int, items: I64, positions: I64) -> F64:
        """For each item: P(click), P(long view | click), P(like | click), shape (n, 3)."""
        users = np.full(len(items), user)
        columns = [_sigmoid(self._logit(kind, users, items) + self._intercepts[kind]) for kind in KINDS]
        columns[0] *= examination(positions)
        return np.stack(columns, axis=1)

    def _appeal(self, users: I64, items: I64) -> F64:
        tastes = self.users.tastes
        share = tastes[users, self.items.topics[items]] * tastes.shape[1]
        liking: F64 = np.clip(np.log(np.maximum(share, 1e-9)), -3.0, 3.0)
        return liking + self.items.qualities[items]

    def _logit(self, kind: str, users: I64, items: I64) -> F64:
        appeal = self._appeal(users, items)
        if kind == "long_view":
            # a long item is harder to watch through
            return appeal - 0.5 * np.log(self.items.durations[items] / 30.0)
        return appeal

    def _calibrate(self, rng: np.random.Generator) -> dict[str, float]:
        users = rng.integers(0, len(self.users.groups), _CALIBRATION_PAIRS)
        items = rng.integers(0, len(self.items.topics), _CALIBRATION_PAIRS)
        looked = examination(rng.integers(0, _POSITIONS, _CALIBRATION_PAIRS))
        found: dict[str, float] = {}
        weight = looked
        for kind in KINDS:
            found[kind] = _intercept(self._logit(kind, users, items), weight, RATES[kind])
            if kind == "click":
                weight = looked * _sigmoid(self._logit(kind, users, items) + found[kind])
        return found


def examination(positions: I64) -> F64:
    """The probability that a user looks at each position, counted from 0."""
    return np.power(_POSITION_DECAY, positions.astype(np.float64))


def _items(rng: np.random.Generator, config: SimulationConfig) -> Items:
    topics = rng.integers(0, config.topics, config.items)
    authors_a_topic = max(1, config.items // config.topics // 10)
    return Items(
        topics=topics,
        # an author keeps to one topic
        authors=topics * authors_a_topic + rng.integers(0, authors_a_topic, config.items),
        types=rng.integers(0, 2, config.items),
        qualities=rng.normal(0.0, 0.7, config.items),
        durations=np.exp(rng.normal(np.log(30.0), 0.6, config.items)),
    )


def _users(rng: np.random.Generator, config: SimulationConfig) -> Users:
    groups = rng.integers(0, GROUPS, config.users)
    leanings = rng.dirichlet(np.full(config.topics, 0.5), GROUPS)
    own = rng.dirichlet(np.full(config.topics, 0.3), config.users)
    return Users(groups, 0.4 * leanings[groups] + 0.6 * own)


def _sigmoid(logits: F64) -> F64:
    return 1.0 / (1.0 + np.exp(-logits))


def _intercept(logits: F64, weights: F64, rate: float) -> float:
    """The b for which mean(weights * sigmoid(logits + b)) is `rate`, by bisection."""
    return _root(lambda b: float(np.mean(weights * _sigmoid(logits + b))) - rate, -15.0, 15.0)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rising(middle) > 0 else (middle, high)
    return (low + high) / 2

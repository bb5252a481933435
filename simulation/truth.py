"""The ground truth of the simulated world: what items are, what users like, and how likely they act.

Nothing here is sent to anyone but through `catalogue`; quality is judged against it. Pure; every draw
comes from a seed. How the world changes in time is `life`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.config import SimulationConfig
from schema.records import I64
from simulation.chance import Purpose

F64 = NDArray[np.float64]

KINDS: Final = ("click", "long_view", "like")
RATES: Final = {"click": 0.30, "long_view": 0.15, "like": 0.03}
"""The share of impressions with each action when feeds are drawn at random."""

GROUPS: Final = 8
"""Age groups: a user's profile names one, and its members' tastes resemble each other."""

_GROUP_SHARE: Final = 0.4
_POSITIONS: Final = 10
_POSITION_DECAY: Final = 0.93
_CALIBRATION_PAIRS: Final = 20_000
_QUALITY_SPREAD: Final = 0.7


@dataclass(frozen=True, slots=True)
class Items:
    """The items, ids 0 to n-1: topic, author, type (0 or 1), quality (about -2 to 2), seconds; shape (n,)."""

    topics: I64
    authors: I64
    types: I64
    qualities: F64
    durations: F64

    def __len__(self) -> int:
        return len(self.topics)

    def with_more(self, more: Items) -> Items:
        """These items, and then `more`."""
        names = self.__dataclass_fields__
        return Items(**{n: np.concatenate((getattr(self, n), getattr(more, n))) for n in names})


@dataclass(slots=True)
class Users:
    """The users, ids 0 to n-1: age group, shape (n,), and share of interest by topic, shape (n, topics).

    `own` is what a user likes apart from the group's `leanings`, shape (groups, topics).
    """

    groups: I64
    leanings: F64
    own: F64
    tastes: F64

    def __len__(self) -> int:
        return len(self.groups)


class World:
    """Items, users, and the probabilities of what they do.

    A user looks at position p with probability 0.93 ** p, clicks what is looked at with probability
    sigmoid(appeal + a), where appeal = log(taste * topics) + quality, and gives a clicked item a long view
    and a like by two more such sigmoids. The intercepts are set so that feeds drawn at random get RATES.

    Args:
        config: the numbers of users, items and topics, and the seed.
    """

    def __init__(self, config: SimulationConfig) -> None:
        rng = np.random.default_rng([config.seed, Purpose.WORLD])
        self.seed = config.seed
        self.surfaces = config.surfaces
        self.topics = config.topics
        self._authors_a_topic = max(1, config.items // config.topics // 10)
        self.items = self.new_items(rng, config.items)
        self.users = _users(rng, config)
        self._intercepts = self._calibrate(rng)

    def new_items(self, rng: np.random.Generator, count: int) -> Items:
        """`count` items that are not in the world yet; an author keeps to one topic."""
        topics = rng.integers(0, self.topics, count)
        return Items(
            topics=topics,
            authors=topics * self._authors_a_topic + rng.integers(0, self._authors_a_topic, count),
            types=rng.integers(0, 2, count),
            qualities=rng.normal(0.0, _QUALITY_SPREAD, count),
            durations=np.exp(rng.normal(np.log(30.0), 0.6, count)),
        )

    def interest(self, users: I64 | int, items: I64) -> F64:
        """The probability that each of `users` clicks the one of `items` beside it when looking at it."""
        return _sigmoid(self._appeal(users, items) + self._intercepts["click"])

    def probabilities(self, users: I64 | int, items: I64, positions: I64) -> F64:
        """For each (user, item, position): P(click), P(long view | click), P(like | click), shape (n, 3)."""
        appeal = self._appeal(users, items)
        columns = [_sigmoid(self._logit(kind, appeal, items) + self._intercepts[kind]) for kind in KINDS]
        columns[0] *= examination(positions)
        return np.stack(columns, axis=1)

    def best_interest(self, user: int, size: int) -> float:
        """The mean interest of `user` in the `size` items that interest the user most."""
        everything = self.interest(user, np.arange(len(self.items)))
        best = np.partition(everything, max(0, len(everything) - size))[-size:]
        return float(best.mean())

    def _appeal(self, users: I64 | int, items: I64) -> F64:
        share = self.users.tastes[users, self.items.topics[items]] * self.topics
        liking: F64 = np.clip(np.log(np.maximum(share, 1e-9)), -3.0, 3.0)
        return liking + self.items.qualities[items]

    def _logit(self, kind: str, appeal: F64, items: I64) -> F64:
        if kind == "long_view":
            # a long item is harder to watch through
            return appeal - 0.5 * np.log(self.items.durations[items] / 30.0)
        return appeal

    def _calibrate(self, rng: np.random.Generator) -> dict[str, float]:
        users = rng.integers(0, len(self.users), _CALIBRATION_PAIRS)
        items = rng.integers(0, len(self.items), _CALIBRATION_PAIRS)
        weight = looked = examination(rng.integers(0, _POSITIONS, _CALIBRATION_PAIRS))
        appeal = self._appeal(users, items)
        found: dict[str, float] = {}
        for kind in KINDS:
            logits = self._logit(kind, appeal, items)
            found[kind] = _intercept(logits, weight, RATES[kind])
            if kind == "click":
                weight = looked * _sigmoid(logits + found[kind])
        return found


def examination(positions: I64) -> F64:
    """The probability that a user looks at each position, counted from 0."""
    return np.power(_POSITION_DECAY, positions.astype(np.float64))


def own_tastes(rng: np.random.Generator, topics: int, count: int) -> F64:
    """What `count` users like apart from their groups, shape (count, topics)."""
    return rng.dirichlet(np.full(topics, 0.3), count)


def blended(users: Users) -> F64:
    """The tastes that groups and users' own likings come to, shape (n, topics)."""
    mixed: F64 = _GROUP_SHARE * users.leanings[users.groups] + (1 - _GROUP_SHARE) * users.own
    return mixed


def _users(rng: np.random.Generator, config: SimulationConfig) -> Users:
    groups = rng.integers(0, GROUPS, config.users)
    leanings = rng.dirichlet(np.full(config.topics, 0.5), GROUPS)
    users = Users(groups, leanings, own_tastes(rng, config.topics, config.users), np.empty(0))
    users.tastes = blended(users)
    return users


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

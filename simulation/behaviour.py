"""What a simulated user does with a feed. Pure: the randomness and the time are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from simulation.truth import World

LATEST_SHARE = 0.5
"""The share of the attribution window in which every action is on its way, so that a retry still makes it."""


class Shown(msgspec.Struct, frozen=True):
    """One item of a feed."""

    item_id: int
    position: int


class Feed(msgspec.Struct, frozen=True):
    """A replica's answer; what else it holds is not looked at."""

    request_id: str
    items: list[Shown]


class ActionBody(msgspec.Struct, frozen=True):
    """One action as the replica's API takes it."""

    request_id: str
    item_id: int
    kind: str
    event_time: int
    value: float


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a feed, and where."""

    user: int
    surface: int


@dataclass(frozen=True, slots=True)
class Reaction:
    """One thing that the user will do: `value` is the seconds watched of a long view, else 1."""

    item_id: int
    kind: str
    value: float


def visitor(world: World, rng: np.random.Generator) -> Visitor:
    """A user and a surface, drawn evenly."""
    return Visitor(int(rng.integers(len(world.users.groups))), int(rng.integers(world.surfaces)))


def reactions(world: World, user: int, shown: Sequence[Shown], rng: np.random.Generator) -> list[Reaction]:
    """What `user` does with the items shown: clicks, and long views and likes of what was clicked.

    An item that the world does not have (someone else's, in the same deployment) gets no reaction.
    """
    known = [s for s in shown if 0 <= s.item_id < len(world.items.topics)]
    if not known:
        return []
    items = np.array([s.item_id for s in known])
    likely = world.probabilities(user, items, np.array([s.position for s in known]))
    draws = rng.random(likely.shape) < likely
    done = []
    for item, (click, long_view, like) in zip(items.tolist(), draws.tolist(), strict=True):
        if click:
            done.append(Reaction(item, "click", 1.0))
            if long_view:
                done.append(Reaction(item, "long_view", round(float(world.items.durations[item]), 3)))
            if like:
                done.append(Reaction(item, "like", 1.0))
    return done


def delay(rng: np.random.Generator, mean_seconds: float, window_seconds: float) -> float:
    """Seconds until the user acts: exponential around `mean_seconds`, well inside the attribution window."""
    return min(float(rng.exponential(mean_seconds)), LATEST_SHARE * window_seconds)


def bodies(request_id: str, done: Sequence[Reaction], event_time: int) -> list[ActionBody]:
    """`done` as the API takes it, all at `event_time` (Unix ms)."""
    return [ActionBody(request_id, r.item_id, r.kind, event_time, r.value) for r in done]

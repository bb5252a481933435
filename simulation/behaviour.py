"""What simulated users do with feeds, many at once. Pure: the randomness is by number, the time is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schema.records import I64
from simulation.chance import Purpose, uniform
from simulation.truth import F64, World

LATEST_SHARE: Final = 0.5
"""The share of the attribution window in which every action is on its way, so that a retry still makes it."""

WATCHED_LONG: Final = 0.8
"""The share of an item's length from which on a view is a long one."""

TAIL: Final = 1.5
"""The tail index of the delays: their mean is finite, their variance is not."""


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
class Visitors:
    """Who asks for a feed, and where; shape (n,)."""

    users: I64
    surfaces: I64


@dataclass(frozen=True, slots=True)
class Reactions:
    """What becomes of r impressions; shape (r,). `watched` is in seconds, 0 where there is no click."""

    items: I64
    clicks: NDArray[np.bool_]
    watched: F64
    long_views: NDArray[np.bool_]
    likes: NDArray[np.bool_]


def visitors(world: World, numbers: I64) -> Visitors:
    """The user and the surface of each visit, drawn evenly."""
    users = uniform(world.seed, Purpose.USER, numbers) * len(world.users)
    surfaces = uniform(world.seed, Purpose.SURFACE, numbers) * world.surfaces
    return Visitors(users.astype(np.int64), surfaces.astype(np.int64))


def reactions(world: World, numbers: I64, users: I64, items: I64, positions: I64) -> Reactions:
    """What users do with impressions: visit number, user, item and position, each of shape (r,).

    A click, then a view as long as the interest makes likely, and maybe a like. An item that the world does
    not have (someone else's, in the same deployment) gets no reaction.
    """
    known = (items >= 0) & (items < len(world.items))
    safe = np.where(known, items, 0)
    click, long_view, like = world.probabilities(users, safe, positions).T
    draw = [uniform(world.seed, p, numbers, positions) for p in (Purpose.CLICK, Purpose.WATCH, Purpose.LIKE)]
    clicks = known & (draw[0] < click)
    share = np.where(clicks, watched_share(draw[1], long_view), 0.0)
    return Reactions(
        items=items,
        clicks=clicks,
        watched=np.round(share * world.items.durations[safe], 3),
        long_views=clicks & (share >= WATCHED_LONG),
        likes=clicks & (draw[2] < like),
    )


def watched_share(draws: F64, long_view: F64) -> F64:
    """The share of an item that is watched: at least WATCHED_LONG with probability `long_view`.

    The lower the draw, the longer the view; so, of two probabilities, the higher one's view is never shorter.
    """
    long = draws < long_view
    within_long = 1.0 - (1.0 - WATCHED_LONG) * draws / np.maximum(long_view, 1e-12)
    within_short = WATCHED_LONG * (1.0 - draws) / np.maximum(1.0 - long_view, 1e-12)
    return np.where(long, within_long, np.minimum(within_short, np.nextafter(WATCHED_LONG, 0.0)))


def delays(world: World, numbers: I64, mean_seconds: float, window_seconds: float) -> F64:
    """Seconds until the user of each visit acts, well inside the attribution window.

    Heavy-tailed: a Lomax distribution with tail index TAIL around `mean_seconds`, before it is cut off.
    """
    draws = uniform(world.seed, Purpose.DELAY, numbers)
    scale = mean_seconds * (TAIL - 1.0)
    return np.minimum(scale * ((1.0 - draws) ** (-1.0 / TAIL) - 1.0), LATEST_SHARE * window_seconds)


def bodies(request_id: str, done: Reactions, event_time: int) -> list[ActionBody]:
    """`done` as the API takes it, all at `event_time` (Unix ms): click, view and like of each item."""
    found: list[ActionBody] = []
    for row in np.flatnonzero(done.clicks).tolist():
        kinds: Sequence[tuple[str, float]] = [("click", 1.0), ("watch", float(done.watched[row]))]
        if done.long_views[row]:
            kinds = [*kinds, ("long_view", float(done.watched[row]))]
        if done.likes[row]:
            kinds = [*kinds, ("like", 1.0)]
        item = int(done.items[row])
        found += [ActionBody(request_id, item, kind, event_time, value) for kind, value in kinds]
    return found

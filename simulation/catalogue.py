"""What the simulated world tells a replica of its items and users: their profiles, never their tastes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from simulation.truth import World

CHUNK: Final = 500
_TYPES: Final = ("NORMAL", "AD")
_REGIONS: Final = 10


def item_bodies(world: World, event_time: int) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /v1/items`, at most CHUNK items each."""
    items = world.items
    entries = [
        {
            "item_id": i,
            "fields": {
                "author": [int(items.authors[i])],
                "tag": [int(items.topics[i])],
                "type": [_TYPES[items.types[i]]],
            },
            "numbers": {"duration_seconds": round(float(items.durations[i]), 3)},
            "event_time": event_time,
        }
        for i in range(len(items.topics))
    ]
    yield from ({"items": entries[at : at + CHUNK]} for at in range(0, len(entries), CHUNK))


def user_bodies(world: World) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /v1/users`, at most CHUNK users each. The region says nothing of a user's taste."""
    groups = world.users.groups
    regions = np.random.default_rng([world.seed, len(groups)]).integers(0, _REGIONS, len(groups))
    entries = [
        {
            "user_id": i,
            "fields": {"profile": [f"age={groups[i]}", f"region={regions[i]}"]},
            "numbers": {},
        }
        for i in range(len(groups))
    ]
    yield from ({"users": entries[at : at + CHUNK]} for at in range(0, len(entries), CHUNK))

"""What the simulated world tells a replica of its items and users: their profiles, never their tastes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from simulation.chance import Purpose, uniform
from simulation.truth import World

CHUNK: Final = 500
_TYPES: Final = ("NORMAL", "AD")
_REGIONS: Final = 10


def item_bodies(world: World, event_time: int, wanted: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /v1/items` that tell of the items `wanted`, at most CHUNK each."""
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
        for i in wanted
    ]
    yield from ({"items": entries[at : at + CHUNK]} for at in range(0, len(entries), CHUNK))


def user_bodies(world: World) -> Iterator[dict[str, Any]]:
    """Bodies for `POST /v1/users`, at most CHUNK users each. The region says nothing of a user's taste."""
    groups = world.users.groups
    draws = uniform(world.seed, Purpose.REGION, range(len(groups)))
    regions = (draws * _REGIONS).astype(int).tolist()
    entries = [
        {
            "user_id": i,
            "fields": {"profile": [f"age={groups[i]}", f"region={regions[i]}"]},
            "numbers": {},
        }
        for i in range(len(groups))
    ]
    yield from ({"users": entries[at : at + CHUNK]} for at in range(0, len(entries), CHUNK))

"""Items, users and what they did: the same for the replica and for the bare compute."""

from __future__ import annotations

import random
import time
from typing import Final

import numpy as np

from schema.config import Config
from schema.features import FeatureBuilder
from schema.records import U64, Profile

USERS: Final = 2000


class World:
    """Items, users and what they did, the same for the replica and for the bare compute."""

    def __init__(self, items: int) -> None:
        rng = random.Random(0)
        self.now = time.time_ns() // 1_000_000
        self.items = [self._item(i, rng) for i in range(items)]
        self.users = [
            Profile("user", u, self.now, {"profile": (f"region_{u % 10}", f"age_{u % 7}")}, {})
            for u in range(USERS)
        ]
        self.histories = {u: [rng.randrange(items) for _ in range(50)] for u in range(USERS)}

    def _item(self, number: int, rng: random.Random) -> Profile:
        fields: dict[str, tuple[int | str, ...]] = {
            "author": (rng.randrange(1000),),
            "tag": tuple(rng.sample(range(50), 2)),
            "type": ("NORMAL",),
        }
        return Profile("item", number, self.now, fields, {"duration_seconds": rng.uniform(5, 60)})

    def row_ids(self, config: Config) -> U64:
        """Every id of an item or a user that a feed may look up, uint64."""
        builder = FeatureBuilder(config.features)
        encoded = [builder.item(p.id, p) for p in self.items] + [builder.user(p.id, p) for p in self.users]
        found = {i for e in encoded for slot in range(len(e.ids)) for i in e.slot(slot)}
        return np.array(sorted(found), np.uint64)

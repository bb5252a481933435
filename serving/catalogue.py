"""What is known of items and users: their latest profiles, held as the feature ids they give.

Pure: knows no topic. The features are encoded once, when a profile arrives, not once a feed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from schema.features import Encoded, FeatureBuilder
from schema.records import Profile
from serving.newest import Newest

MAX_VALUES: Final = 1000
"""The most values that a profile may give one slot."""


class Catalogue:
    """Profiles by id, a later one replacing an earlier. One thread may apply while others read."""

    def __init__(self, builder: FeatureBuilder) -> None:
        self._builder = builder
        self._items: dict[int, Encoded] = {}
        self._users: dict[int, Encoded] = {}
        self._newest = Newest()
        self.on_item: Callable[[int], None] = lambda _: None
        """Told of every item whose profile is applied."""

    @property
    def items(self) -> int:
        """How many items have a profile."""
        return len(self._items)

    @property
    def users(self) -> int:
        """How many users have a profile."""
        return len(self._users)

    def apply(self, profile: Profile) -> None:
        """Let `profile` replace what was known.

        Raises:
            ValueError: it is of neither a user nor an item, or gives features that no model can take; what
                was known stays.
        """
        if profile.kind == "item":
            self._items[profile.id] = _sound(profile, self._builder.item)
            self._newest.put(profile.id, profile.event_time)
            self.on_item(profile.id)
        elif profile.kind == "user":
            self._users[profile.id] = _sound(profile, self._builder.user)
        else:
            raise ValueError(f"kind: {profile.kind!r}; legal is item or user")

    def item(self, item_id: int) -> Encoded:
        """The features of an item; of its id alone where it has no profile."""
        return self._items.get(item_id) or self._builder.item(item_id, None)

    def user(self, user_id: int) -> Encoded:
        """The features of a user; of the id alone where there is no profile."""
        return self._users.get(user_id) or self._builder.user(user_id, None)

    def newest(self, count: int, turn: int = 0) -> list[int]:
        """The `count` items with the latest profiles; see `Newest.first`. For the applying thread alone."""
        return self._newest.first(count, turn)


def _sound(profile: Profile, encode: Callable[[int, Profile], Encoded]) -> Encoded:
    # a number beyond float32 becomes infinite, which the check below says better than a warning
    with np.errstate(over="ignore"):
        encoded = encode(profile.id, profile)
    if not np.isfinite(encoded.dense).all():
        raise ValueError(f"numbers: {profile.numbers}; legal are finite 32-bit floats")
    longest = max(map(len, encoded.ids), default=0) // 8
    if longest > MAX_VALUES:
        raise ValueError(f"fields: {longest} values for one slot; legal is at most {MAX_VALUES}")
    return encoded

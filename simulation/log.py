"""A recorded log as columns, whatever data set it came from. Knows no file and no record of a topic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.records import I64, Profile

EXPOSED: Final = "exposed"
"""The history action of an exposure itself; the others are the kinds of actions."""

Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Log:
    """n exposures in the order of their times, and what is known of their users and items.

    Attributes:
        name: leads every request id.
        times: when each exposure was, Unix milliseconds, ascending, shape (n,).
        users: shape (n,).
        items: shape (n,).
        surfaces: where in the app it was, shape (n,).
        play_ms: how long the item was played, milliseconds, shape (n,).
        outcomes: for each action kind, whether the exposure led to it, shape (n,).
        user_profiles: by user id.
        item_profiles: by item id.
        seeds: for each history action, each user's items before the log, oldest first.
    """

    name: str
    times: I64
    users: I64
    items: I64
    surfaces: I64
    play_ms: I64
    outcomes: Mapping[str, Bool]
    user_profiles: Mapping[int, Profile]
    item_profiles: Mapping[int, Profile]
    seeds: Mapping[str, Mapping[int, list[int]]]

    def __len__(self) -> int:
        return len(self.times)

    def head(self, exposures: int) -> Log:
        """The log's first `exposures` exposures."""
        cut = slice(exposures)
        return replace(
            self,
            times=self.times[cut],
            users=self.users[cut],
            items=self.items[cut],
            surfaces=self.surfaces[cut],
            play_ms=self.play_ms[cut],
            outcomes={kind: happened[cut] for kind, happened in self.outcomes.items()},
        )

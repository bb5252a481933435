"""Which items a feed chooses from: retrieved, recent and popular ones, and which is which. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain, repeat
from typing import NamedTuple, Self

from schema.config import ServingConfig


class Origin(IntEnum):
    """Where a candidate comes from; the number stands in the feature log."""

    POPULAR = 0
    RECENT = 1
    RETRIEVED = 2


class Places(NamedTuple):
    """How many candidates each list gives where something was retrieved."""

    retrieved: int
    recent: int
    popular: int

    @classmethod
    def of(cls, serving: ServingConfig) -> Self:
        """As `serving` says; halves may round up, so what is retrieved may have no place."""
        count = serving.candidates
        recent, popular = round(count * serving.recent_share), round(count * serving.popular_share)
        return cls(max(0, count - recent - popular), recent, popular)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Distinct items, and the origin of each; `popular` and `recent` are what they were chosen from."""

    items: tuple[int, ...] = ()
    origins: tuple[Origin, ...] = ()
    popular: Sequence[int] = ()
    recent: Sequence[int] = ()

    @classmethod
    def mixed(cls, popular: Sequence[int], recent: Sequence[int], count: int, recent_share: float) -> Self:
        """At most `count` items, the popular ones first.

        `recent_share` of the places are the newest items', the others the most popular ones'; where either
        list is too short, or both name an item, the next ones of either list fill up.

        Args:
            popular: the most popular first.
            recent: the newest first.
            count: how many are wanted.
            recent_share: in [0, 1].
        """
        fresh = round(count * recent_share)
        lists = ((Origin.POPULAR, popular, count - fresh), (Origin.RECENT, recent, fresh))
        return cls(*_blend(lists, count), popular, recent)

    def led_by(self, retrieved: Sequence[int], serving: ServingConfig) -> Candidates:
        """The retrieved items, the best first, then as many recent and popular ones as `serving` says."""
        places = Places.of(serving)
        lists = (
            (Origin.RETRIEVED, retrieved, places.retrieved),
            (Origin.RECENT, self.recent, places.recent),
            (Origin.POPULAR, self.popular, places.popular),
        )
        return Candidates(*_blend(lists, serving.candidates), self.popular, self.recent)


_Lists = Sequence[tuple[Origin, Sequence[int], int]]


def _blend(lists: _Lists, count: int) -> tuple[tuple[int, ...], tuple[Origin, ...]]:
    """At most `count` distinct items: of each list in turn its number, then what is left of each."""
    ordered = chain(
        *(zip(items[:share], repeat(origin), strict=False) for origin, items, share in lists),
        *(zip(items[share:], repeat(origin), strict=False) for origin, items, share in lists),
    )
    chosen: dict[int, Origin] = {}
    for item, origin in ordered:
        if len(chosen) == count:
            break
        chosen.setdefault(item, origin)
    return tuple(chosen), tuple(chosen.values())

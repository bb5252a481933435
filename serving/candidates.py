"""Which items a feed chooses from: popular and recent ones, until retrieval is learned. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice


def mix(popular: Sequence[int], recent: Sequence[int], count: int, recent_share: float) -> tuple[int, ...]:
    """At most `count` distinct items, the popular ones first.

    `recent_share` of the places are the newest items', the others the most popular ones'; where either list
    is too short, or both name an item, the next ones of either list fill up.

    Args:
        popular: the most popular first.
        recent: the newest first.
        count: how many are wanted.
        recent_share: in [0, 1].
    """
    fresh = round(count * recent_share)
    settled = count - fresh
    ordered = chain(popular[:settled], recent[:fresh], popular[settled:], recent[fresh:])
    return tuple(islice(dict.fromkeys(ordered), count))

"""The newest items, kept up as they come: what one more costs does not depend on how many there are.

Pure: knows no profile. For one thread.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from typing import Final

_POOL: Final = 10_000


class Newest:
    """Items by their times, the latest `pool` of them always in order.

    Args:
        pool: of how many items those that share the edge of the newest take turns.
    """

    def __init__(self, pool: int = _POOL) -> None:
        self._pool = pool
        self._times: dict[int, int] = {}
        # the latest (time, item), ascending: at least `pool` where there are as many, or it is made again
        self._latest: list[tuple[int, int]] = []

    def put(self, item: int, time: int) -> None:
        """`item` is of `time` now, in Unix ms."""
        before, key = self._times.get(item), (time, item)
        self._times[item] = time
        if before is not None:
            self._take_out((before, item))
        all_others = len(self._latest) == len(self._times) - 1
        if all_others or (self._latest and key > self._latest[0]):
            insort(self._latest, key)
            if len(self._latest) > 2 * self._pool:
                del self._latest[: -self._pool]

    def _take_out(self, key: tuple[int, int]) -> None:
        at = bisect_left(self._latest, key)
        if at < len(self._latest) and self._latest[at] == key:
            del self._latest[at]

    def first(self, count: int, turn: int = 0) -> list[int]:
        """The `count` newest items, the newest first.

        Where more items than places share the earliest time that still gets in, as after a bulk load, they
        take turns: each `turn` begins that many places further on.
        """
        pool, times = self._newest_first(), self._times
        if len(pool) <= count or count == 0:
            return pool[:count]
        edge = times[pool[count - 1]]
        sure = bisect_left(pool, -edge, key=lambda item: -times[item])
        tied = pool[sure : bisect_right(pool, -edge, key=lambda item: -times[item])]
        start = turn % len(tied)
        return (pool[:sure] + tied[start:] + tied[:start])[:count]

    def _newest_first(self) -> list[int]:
        if len(self._latest) < min(self._pool, len(self._times)):
            # more than a few have become older
            keys = zip(self._times.values(), self._times.keys(), strict=True)
            self._latest = heapq.nlargest(self._pool, keys)[::-1]
        return [item for _, item in reversed(self._latest[-self._pool :])]

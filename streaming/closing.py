"""The open requests of one partition in the order in which their windows end. Pure; knows no clock."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from streaming.request import Request

_SPAN_MS: Final = 256


class Closing:
    """Requests by the end of their window, those of one end in the order in which they came.

    They lie in buckets of some milliseconds: as a rule a whole bucket ends at once, and they came in order.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[int, int, Request]]] = {}
        self._order: list[int] = []
        self._ticket = 0

    def __iter__(self) -> Iterator[Request]:
        return (request for bucket in self._buckets.values() for _, _, request in bucket)

    def add(self, request: Request, end: int) -> None:
        """A request opens, whose window lasts up to and with `end`."""
        number = end // _SPAN_MS
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = []
            heapq.heappush(self._order, number)
        self._ticket += 1
        bucket.append((end, self._ticket, request))

    def take(self, watermark: int) -> list[Request]:
        """Those whose windows have ended at `watermark`, which closes them; each once."""
        taken: list[Request] = []
        while self._order and self._order[0] * _SPAN_MS < watermark:
            number = self._order[0]
            bucket = self._buckets[number]
            bucket.sort()
            over = bisect_left(bucket, (watermark,))
            taken += [request for _, _, request in bucket[:over]]
            if over < len(bucket):
                del bucket[:over]
                break
            heapq.heappop(self._order)
            del self._buckets[number]
        return taken

"""The open requests of one partition in the order in which their windows end. Pure; knows no clock."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from streaming.register import Closed
from streaming.request import Request

_SPAN_MS: Final = 256


class Closing:
    """Requests by the end of their window, those of one end in the order of their feature logs.

    They lie in buckets of some milliseconds: as a rule a whole bucket ends at once, and they came in order.
    """

    def __init__(self) -> None:
        self._buckets: dict[int, list[tuple[int, int, int, Request]]] = {}
        self._order: list[int] = []

    def __iter__(self) -> Iterator[Request]:
        return (request for bucket in self._buckets.values() for *_, request in bucket)

    def add(self, request: Request, end: int) -> None:
        """A request opens, whose window lasts up to and with `end`."""
        number = end // _SPAN_MS
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = []
            heapq.heappush(self._order, number)
        bucket.append((end, request.offset, request.index, request))

    def take(self, watermark: int) -> list[Request]:
        """Those whose windows have ended at `watermark`, which closes them; each once."""
        taken: list[Request] = []
        while self._order and self._order[0] * _SPAN_MS < watermark:
            number = self._order[0]
            bucket = self._buckets[number]
            bucket.sort()
            over = bisect_left(bucket, (watermark,))
            taken += [request for *_, request in bucket[:over]]
            if over < len(bucket):
                del bucket[:over]
                break
            heapq.heappop(self._order)
            del self._buckets[number]
        return taken


def in_order(requests: Sequence[Request], plain: Closed | None, window: int) -> list[Request | Closed]:
    """Requests that close at once, objects and those in the register, as their windows ended."""
    if plain is None:
        return list(requests)
    if not requests:
        return [plain]
    keyed: list[tuple[int, int, int, Request | Closed]] = [
        (request.event_time + window, request.offset, request.index, request) for request in requests
    ]
    for one in zip(*plain, strict=True):
        slot, offset, rows, end, index = one
        keyed.append((end, offset, index, Closed([slot], [offset], [rows], [end], [index])))
    return [one for *_, one in sorted(keyed, key=lambda key: key[:3])]

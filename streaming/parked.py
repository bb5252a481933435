"""Actions whose window has passed without a feature log: in the late store, until `reach` after their time.

They have been acknowledged; what is lost with a store is read again from the actions topic. Pure but for the
store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from streaming.late import FIRST, Group, LateStore, Place
from streaming.waiting import Arrival


def _park(store: LateStore, arrivals: Sequence[Arrival], reach: int) -> Place:
    """Keep actions of one request in `store`; where their group lies."""
    request_id = arrivals[0].action.request_id
    group = store.group(request_id)
    known = {_key(a): a for a in group.arrivals} if group else {}
    known |= {_key(a): msgspec.structs.replace(a, parked=True) for a in arrivals}
    kept = tuple(known.values())
    offset = min(a.offset for a in kept)
    until = max(a.action.event_time for a in kept) + reach
    if group is not None and offset != group.offset:
        store.drop_group(Place(group.offset, request_id))
    store.put_group(request_id, Group(offset, until, kept))
    return Place(offset, request_id)


def _key(arrival: Arrival) -> tuple[int, int, int, str]:
    return arrival.offset, arrival.position, arrival.action.item_id, arrival.action.kind


class Parked:
    """The parked actions of one partition.

    Args:
        store: where they lie.
        reach: how long after its time an action may still count, ms.
    """

    def __init__(self, store: LateStore, reach: int) -> None:
        self._store = store
        self._reach = reach
        self._head: Place | None = None
        self._until = 0
        self._find_head(FIRST)

    def __bool__(self) -> bool:
        return self._head is not None

    @property
    def low(self) -> int | None:
        """The offset of the oldest action that a label may still come of, None without any."""
        return None if self._head is None else self._head.offset

    def add(self, arrivals: Sequence[Arrival]) -> None:
        """Keep actions of one request."""
        place = _park(self._store, arrivals, self._reach)
        if self._head is None or place <= self._head:
            self._find_head(Place(place.offset - 1, ""))

    def of(self, request_id: str) -> Sequence[Arrival]:
        """The actions of a request. They stay until `drop`."""
        group = self._store.group(request_id) if self else None
        return () if group is None else group.arrivals

    def drop(self, request_id: str) -> None:
        """Nothing more can come of the actions of a request."""
        group = self._store.group(request_id)
        if group is None:
            return
        place = Place(group.offset, request_id)
        self._store.drop_group(place)
        if place == self._head:
            self._find_head(place)

    def expire(self, watermark: int) -> Iterator[Arrival]:
        """The actions that no feature log may come for any more, each once; they stay until `drop`."""
        while self._head is not None and self._until < watermark:
            head = self._head
            arrivals = self.of(head.request_id)
            known = self._store.state(head.request_id) is not None
            self._find_head(head)
            if known:  # another worker had this partition meanwhile, and its feature log
                self._store.drop_group(head)
            else:
                yield from arrivals

    def _find_head(self, after: Place) -> None:
        self._head = self._store.next_group(after)
        group = None if self._head is None else self._store.group(self._head.request_id)
        self._until = 0 if group is None else group.until

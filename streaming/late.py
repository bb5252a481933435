"""Where closed requests are found again, and where actions lie whose feature log has not come.

The interface, and a version in memory. Knows no disk.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from streaming.heads import Head, unpack
from streaming.request import Request, State
from streaming.waiting import Arrival


class LateStoreError(Exception):
    """The late store cannot be read or written. It is made anew; the log holds all that it held."""


def unpacked(packed: bytes) -> Head:
    """A feature log out of the late store.

    Raises:
        LateStoreError: it is none.
    """
    try:
        return unpack(packed)
    except msgspec.DecodeError as error:
        raise LateStoreError(f"a feature log: {error}") from error


class Group(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The parked actions of one request: the lowest offset, and the event time after which no log comes."""

    offset: int
    until: int
    arrivals: tuple[Arrival, ...]


class Place(NamedTuple):
    """A group's place in the order in which they were read."""

    offset: int
    request_id: str


class LateStore(Protocol):
    """Closed requests and parked actions by request id.

    Writes count once `flush` returns; a reader sees its own writes at once.
    """

    def state(self, request_id: str) -> State | None:
        """What was emitted of a request, None if it is not known."""

    def states(self, request_ids: Sequence[str]) -> list[State | None]:
        """As `state` for each."""

    def log(self, request_id: str) -> bytes | None:
        """Its feature log, packed, None if it is not kept."""

    def put_state(self, request_id: str, state: State) -> None:
        """Keep what was emitted of a request."""

    def put_log(self, request_id: str, packed: bytes) -> None:
        """Keep a feature log."""

    def put_closed(self, requests: Sequence[Request]) -> None:
        """Keep closed requests: what was emitted of each, and its feature log where that is not `stored`."""

    def group(self, request_id: str) -> Group | None:
        """The parked actions of a request."""

    def put_group(self, request_id: str, group: Group) -> None:
        """Keep a group; its offset may not differ from that of the one it replaces."""

    def drop_group(self, place: Place) -> None:
        """Forget a group."""

    def next_group(self, after: Place) -> Place | None:
        """The first group after a place."""

    def flush(self) -> None:
        """Write what was put."""


FIRST = Place(-1, "")
"""Before all groups."""


class MemoryStore:
    """The last `limit` requests put, and as many groups: where nothing is on disk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[str, State] = OrderedDict()
        self._logs: dict[str, bytes] = {}
        self._groups: dict[str, Group] = {}
        self._places: list[Place] = []

    def state(self, request_id: str) -> State | None:
        """As the interface."""
        return self._states.get(request_id)

    def states(self, request_ids: Sequence[str]) -> list[State | None]:
        """As the interface."""
        return [self._states.get(request_id) for request_id in request_ids]

    def log(self, request_id: str) -> bytes | None:
        """As the interface."""
        return self._logs.get(request_id)

    def put_state(self, request_id: str, state: State) -> None:
        """As the interface."""
        self._states[request_id] = state
        if len(self._states) > self._limit:
            oldest, _ = self._states.popitem(last=False)
            self._logs.pop(oldest, None)

    def put_log(self, request_id: str, packed: bytes) -> None:
        """As the interface."""
        self._logs[request_id] = packed

    def put_closed(self, requests: Sequence[Request]) -> None:
        """As the interface."""
        for request in requests:
            if request.packed is not None and not request.stored:
                self.put_log(request.request_id, request.packed)
            self.put_state(request.request_id, request.state())

    def group(self, request_id: str) -> Group | None:
        """As the interface."""
        return self._groups.get(request_id)

    def put_group(self, request_id: str, group: Group) -> None:
        """As the interface."""
        if request_id not in self._groups:
            insort(self._places, Place(group.offset, request_id))
        self._groups[request_id] = group
        if len(self._places) > self._limit:
            self.drop_group(self._places[0])

    def drop_group(self, place: Place) -> None:
        """As the interface."""
        if self._groups.pop(place.request_id, None) is not None:
            self._places.remove(place)

    def next_group(self, after: Place) -> Place | None:
        """As the interface."""
        at = bisect_right(self._places, after)
        return self._places[at] if at < len(self._places) else None

    def flush(self) -> None:
        """As the interface."""

"""Where closed requests are found again, and where actions lie whose feature log has not come.

The interface, and a version in memory. Knows no disk.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

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


Entry = tuple[bytes, bytes]
"""A closed request as bytes: the key of its state, which is a byte and its id, and that as MessagePack."""


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

    def knows_any(self, names: Sequence[bytes], *, parked: bool) -> bool:
        """Whether there may be a `state` of any request of these ids, or, with `parked`, a `group`."""

    def log(self, request_id: str) -> bytes | None:
        """What was given to `put_log`, None if nothing was."""

    def put_state(self, request_id: str, state: State) -> None:
        """Keep what was emitted of a request, in place of what was kept before."""

    def put_log(self, request_id: str, packed: bytes) -> None:
        """Keep the feature log of a request that is open."""

    def put_closed(self, requests: Sequence[Request]) -> None:
        """Keep the states of closed requests."""

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """As `put_closed`, of requests that are bytes already."""

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


def find_closed(store: LateStore, request_id: str) -> Request | None:
    """The closed request of that id; None, too, for one whose log is still to be read again.

    Raises:
        LateStoreError: the store cannot be read.
    """
    state = store.state(request_id)
    packed = None if state is None else state.log or store.log(request_id)
    return None if state is None or packed is None else Request.closed(unpacked(packed), packed, state)


_state_of: Final = msgspec.msgpack.Decoder(State).decode

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

    def knows_any(self, names: Sequence[bytes], *, parked: bool) -> bool:
        """As the interface."""
        ids = [name.decode() for name in names]
        return any(one in self._states or (parked and one in self._groups) for one in ids)

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
            self.put_state(request.request_id, request.state())

    def put_entries(self, entries: Sequence[Entry]) -> None:
        """As the interface."""
        for key, state in entries:
            self.put_state(key[1:].decode(), _state_of(state))

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

"""Actions that came before anything is known of their request, while event time is in their window. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from schema.records import Action


class Arrival(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An action and where its record lay: `offset`, and `position` in the envelope.

    `parked`: it has been acknowledged, and lies in the late store.
    """

    action: Action
    user_id: int
    offset: int
    position: int
    parked: bool = False


class Waiting:
    """Actions by request, in the order in which the first of each came.

    Args:
        window: for how long an action waits, ms from its event time.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._actions: dict[str, list[Arrival]] = {}
        self._order: deque[str] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._actions

    def add(self, arrival: Arrival) -> None:
        """Keep an action."""
        request_id = arrival.action.request_id
        same = self._actions.get(request_id)
        if same is None:
            self._actions[request_id] = [arrival]
            self._order.append(request_id)
        else:
            same.append(arrival)
        self._count += 1

    def take(self, request_id: str) -> list[Arrival]:
        """The actions of one request, which wait no longer."""
        taken = self._actions.pop(request_id, None)
        if taken is None:
            return []
        self._count -= len(taken)
        return taken

    def take_all(self) -> list[Arrival]:
        """All actions, in the order in which they came."""
        taken = [arrival for some in self._actions.values() for arrival in some]
        self._actions.clear()
        self._order.clear()
        self._count = 0
        return sorted(taken, key=lambda a: a.offset)

    def take_first(self, watermark: int | None = None) -> list[Arrival]:
        """The actions of the request that came first; none if their windows are not over at `watermark`."""
        order = self._order
        while order and order[0] not in self._actions:
            order.popleft()
        if not order:
            return []
        if watermark is not None:
            newest = max(a.action.event_time for a in self._actions[order[0]])
            if newest + self._window >= watermark:
                return []
        return self.take(order.popleft())

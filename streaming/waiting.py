"""Actions that came before anything is known of their request. Pure."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from schema.records import Action


class Arrival(NamedTuple):
    """An action and where its record lay."""

    action: Action
    user_id: int
    offset: int
    position: int
    """The index of its record in the envelope."""


class Waiting:
    """Actions by request, each until event time has passed its own window.

    Args:
        window: ms.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._actions: dict[str, list[Arrival]] = {}
        self._expiring: list[tuple[int, int, str]] = []
        self._ticket = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, arrival: Arrival) -> None:
        """Keep an action."""
        action = arrival.action
        self._actions.setdefault(action.request_id, []).append(arrival)
        self._count += 1
        self._ticket += 1
        heapq.heappush(self._expiring, (action.event_time + self._window, self._ticket, action.request_id))

    def take(self, request_id: str) -> list[Arrival]:
        """The actions of one request, which wait no longer."""
        taken = self._actions.pop(request_id, [])
        self._count -= len(taken)
        return taken

    def take_all(self) -> list[Arrival]:
        """All actions, in the order in which they came."""
        taken = [arrival for some in self._actions.values() for arrival in some]
        self._actions.clear()
        self._expiring.clear()
        self._count = 0
        return sorted(taken, key=lambda a: a.offset)

    def expire(self, watermark: int) -> list[Arrival]:
        """The actions whose window has passed."""
        expired: list[Arrival] = []
        while self._expiring and self._expiring[0][0] < watermark:
            request_id = heapq.heappop(self._expiring)[2]
            kept = []
            for arrival in self.take(request_id):
                if arrival.action.event_time + self._window < watermark:
                    expired.append(arrival)
                else:
                    kept.append(arrival)
            if kept:
                self._actions[request_id] = kept
                self._count += len(kept)
        return expired

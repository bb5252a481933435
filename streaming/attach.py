"""What an action does to the request that it speaks of: it makes a label, or nothing comes of it, and why.

Knows neither windows nor where requests are found.
"""

from __future__ import annotations

from streaming import cells
from streaming.counts import Counts
from streaming.emission import Rejected
from streaming.emitter import Emitter
from streaming.request import Request
from streaming.rules import Rules
from streaming.waiting import Arrival


class Attacher:
    """Puts actions into the labels of requests.

    Lists collect what the caller has to deal with and clear: `rejected`, actions for the dead letters, and
    `released`, offsets of actions that need nothing more.

    Args:
        rules: what makes a label.
        emitter: emits what does not wait for the close.
        counts: where to count.
    """

    def __init__(self, rules: Rules, emitter: Emitter, counts: Counts) -> None:
        self.rejected: list[Rejected] = []
        self.released: list[int] = []
        self._tasks = len(rules.tasks)
        self._kinds, self._reach, self._makes_late = rules.kinds, rules.reach, rules.makes_late
        self._early = rules.early
        self._emitter = emitter
        self._counts = counts

    def attach(self, request: Request, arrival: Arrival) -> None:
        """An action of a kind that makes labels came, or is looked at again."""
        action, offset = arrival.action, arrival.offset
        # also for those that change nothing: a re-reader who meets one must find the request again
        if offset > request.last_action and not arrival.parked:
            request.last_action = offset
        hit = cells.of_item(request.items, action.item_id, self._kinds[action.kind], self._tasks)
        fresh = hit & ~request.hits
        counts = action.event_time <= request.event_time + self._reach and (request.open or self._makes_late)
        if not fresh or not counts:
            self._refuse(request, arrival, hit, fresh)
            return
        request.hits |= fresh
        if not arrival.parked:
            request.owe(offset)
        if not request.open or request.spoken or self._early:
            self._tell(request, fresh, arrival)

    def reject(self, arrival: Arrival, reason: str, detail: str) -> None:
        """No label comes of an action, and somebody should know."""
        self.rejected.append(Rejected(arrival, reason, detail))

    def give_up(self, arrival: Arrival) -> None:
        """No feature log will come for an action."""
        self.reject(arrival, "unmatched_action", f"no feature log of {arrival.action.request_id!r}")

    def _refuse(self, request: Request, arrival: Arrival, hit: int, fresh: int) -> None:
        """No label comes of `arrival`."""
        if not hit:
            item = arrival.action.item_id
            self.reject(arrival, "unknown_item", f"item {item} was not shown in this request")
        elif not fresh:
            self._counts.duplicates += 1
            if not arrival.parked:
                self.released.append(arrival.offset)
        elif arrival.action.event_time > request.event_time + self._reach:
            end = request.event_time + self._reach
            self.reject(arrival, "late_action", f"actions for it counted until {end}")
        else:
            self.reject(arrival, "late_action", "the labels of this request have been emitted")

    def _tell(self, request: Request, fresh: int, arrival: Arrival) -> None:
        """Emit what does not wait for the close."""
        if not request.open:
            self._emitter.late(request, fresh, arrival.offset)
            return
        # an earlier owner may have closed it, and emitted these as negatives
        taken_back = fresh & request.spoken
        if taken_back:
            self._emitter.late(request, taken_back, arrival.offset)
        early = fresh & ~request.spoken
        if early and self._early:
            self._emitter.early(request, early)

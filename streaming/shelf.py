"""Actions of requests that are not known: in memory for as long as their window, then in the late store.

Knows no requests; who finds one takes its actions from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from streaming.attach import Attacher
from streaming.counts import Counts
from streaming.late import LateStore
from streaming.parked import Parked
from streaming.rules import Rules
from streaming.waiting import Arrival, Waiting


class Shelf:
    """The waiting and the parked actions of one partition.

    As long as the store is not `whole`, the requests of which actions were parked are kept in `meanwhile`.

    Args:
        rules: windows, and which kinds make a label.
        store: where actions are parked.
        attacher: takes those that nothing comes of.
        counts: where to count.
    """

    def __init__(self, rules: Rules, store: LateStore, attacher: Attacher, counts: Counts) -> None:
        self.waiting = Waiting(rules.window)
        self.parked = Parked(store, rules.reach)
        self.whole = True
        self.meanwhile: set[str] = set()
        self._kinds, self._makes_late, self._limit = rules.kinds, rules.makes_late, rules.open_limit
        self._attacher = attacher
        self._counts = counts

    def add(self, arrival: Arrival, *, may_park: bool) -> None:
        """An action waits. Where more do than fit, those of the request that came first are set aside."""
        self.waiting.add(arrival)
        if may_park and len(self.waiting) > self._limit:
            self._set_aside(self.waiting.take_first())

    def end_waits(self, watermark: int) -> None:
        """Set aside the actions whose windows are over."""
        while over := self.waiting.take_first(watermark):
            self._set_aside(over)

    def expire(self, watermark: int) -> None:
        """Give up the parked actions that no feature log may come for any more."""
        if self.parked:
            for arrival in self.parked.expire(watermark):
                self._attacher.give_up(arrival)

    def park_again(self, arrivals: Sequence[Arrival]) -> None:
        """Actions of the past, acknowledged by earlier owners, whose feature logs had not come."""
        for arrival in arrivals:
            if arrival.action.kind in self._kinds:
                self._park([arrival])

    def late_below(self, low: int) -> int:
        """Below which action no late emission is to come, where `low` is the oldest not acknowledged."""
        if not self.whole:
            return 0
        return low if self.parked.low is None else min(low, self.parked.low)

    def _set_aside(self, arrivals: Sequence[Arrival]) -> None:
        """Actions of one request have waited long enough in memory."""
        if self._makes_late:
            self._park(arrivals)
            self._attacher.released.extend([a.offset for a in arrivals])
        else:
            for arrival in arrivals:
                self._attacher.give_up(arrival)

    def _park(self, arrivals: Sequence[Arrival]) -> None:
        self.parked.add(arrivals)
        self._counts.parked += len(arrivals)
        if not self.whole:
            self.meanwhile.add(arrivals[0].action.request_id)

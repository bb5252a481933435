"""The join of one partition: requests opened by feature logs, actions attached, closed by the watermark.

A pure state machine: event times come with the records and with `advance`; it knows no clock, no Kafka and no
wire format of its results. Each (impression, task) is emitted once; a positive that comes after its negative
was emitted takes that back.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from streaming import cells
from streaming.counts import Counts
from streaming.emission import Rejected
from streaming.emitter import Emitter, unpacked
from streaming.heads import Head
from streaming.late import LateStore
from streaming.parked import Parked
from streaming.request import Request
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.waiting import Arrival, Waiting


class Join:
    """The open requests, waiting actions and recently closed requests of one partition.

    Lists collect what the caller has to deal with and clear: `emitted`, where a request follows its last
    emission on time; `settled` requests, of which everything has arrived; `rejected`, actions for the dead
    letters; and `released`, offsets of actions that need nothing more. An emission has to come back through
    `delivered`. While `held`, nothing closes and no action counts. While `store_behind`, actions of unknown
    requests wait. As long as the store is not `whole`, what is parked or closed is looked at again then.

    Args:
        number: the partition.
        rules: the window and what makes a label.
        sampler: which rows without a positive label stay.
        store: where closed requests are kept.
        counts: where to count.
    """

    def __init__(self, number: int, rules: Rules, sampler: Sampler, store: LateStore, counts: Counts) -> None:
        self._emitter = Emitter(number, rules, sampler, store, counts)
        self.emitted = self._emitter.emitted
        self.rejected: list[Rejected] = []
        self.released: list[int] = []
        self.settled: list[Request] = []
        self.held = False
        self.store_behind = False
        self.whole = True
        self.waiting = Waiting(rules.window)
        self.parked = Parked(store, rules.reach)
        self.open_requests = 0
        self._rules = rules
        self._tasks = len(rules.tasks)
        self._kinds, self._reach, self._makes_late = rules.kinds, rules.reach, rules.makes_late
        self._sampler = sampler
        self._store = store
        self._counts = counts
        self._requests: dict[str, Request] = {}
        self._closing: list[tuple[int, int, Request]] = []
        self._ticket = 0
        self._closed_below = 0
        self._meanwhile: set[str] = set()

    def open(self, head: Head, packed: bytes, offset: int, index: int) -> int | None:
        """A feature log came.

        Returns:
            None, or for a duplicate, which changes nothing, the offset of the log that came first.
        """
        request_id = head.request_id
        known = self._requests.get(request_id)
        state = None if known is not None else self._store.state(request_id)
        first = known or state
        if first is not None and (first.offset, first.index) != (offset, index):
            self._counts.duplicates += 1
            return first.offset
        if known is not None:  # an action has found it on disk before its log was read again
            known.owes_log = True
            self.emitted.append(known)
            return None
        request = Request(head, packed, offset, index)
        if state is not None:  # an earlier owner had it, and emitted this much
            request.resume(state)
        self._admit(request)
        if not self.held:
            self._begin(request)
        return None

    def act(self, arrival: Arrival) -> None:
        """An action came: it makes a label, waits, or ends in `rejected` or `released`."""
        action = arrival.action
        if action.kind not in self._kinds:
            self._counts.ignored += 1
            self.released.append(arrival.offset)
            return
        request = self._requests.get(action.request_id)
        if request is not None and not self.held:
            self._attach(request, arrival)
        else:
            self._dispatch(arrival)

    def advance(self, watermark: int) -> None:
        """Event time has come to `watermark`: an event older than that is not expected any more."""
        if self.held:
            return
        while not self.store_behind and (over := self.waiting.take_first(watermark)):
            self._set_aside(over)
        while self._closing and self._closing[0][0] < watermark:
            request = heapq.heappop(self._closing)[2]
            if request.due:
                self._close(request)
        if self.parked and not self.store_behind:
            for arrival in self.parked.expire(watermark):
                self._reject(arrival, "unmatched_action", f"no feature log of {arrival.action.request_id!r}")

    def recalled(self, closed_below: int = 0) -> list[tuple[int, int]]:
        """What earlier owners emitted is in the store: open requests take it over, closes may go on.

        Args:
            closed_below: they closed the requests of feature logs below this offset, and have said so.

        Returns:
            Of each duplicate among the open requests, the offset of the log that came first and its own.
        """
        self.held, self._closed_below, doubled = False, closed_below, []
        for request in sorted((r for _, _, r in self._closing), key=lambda r: r.offset):
            state = self._store.state(request.request_id)
            if state is not None and (state.offset, state.index) != (request.offset, request.index):
                self._forget(request)
                doubled.append((state.offset, request.offset))
                continue
            if state is not None:
                request.resume(state)
            self._begin(request)
        self._try_again()
        return doubled

    def park_again(self, arrivals: Sequence[Arrival]) -> None:
        """Actions of the past, acknowledged by earlier owners, whose feature logs had not come."""
        for arrival in arrivals:
            if arrival.action.kind in self._kinds:
                self._park([arrival])

    def go_on(self) -> None:
        """Late actions wait no longer for a store that is behind."""
        self.store_behind = False
        if not self.held:
            self._try_again()

    def caught_up(self, found: Sequence[str] = ()) -> None:
        """The store holds every closed request that late actions may speak of.

        Args:
            found: closed requests that have parked actions.
        """
        self.store_behind, self.whole = False, True
        if self.parked:
            for request_id in self._meanwhile.union(found, self._requests):
                request = self._requests.get(request_id) or self._find(request_id)
                if request is not None and not self.held:
                    self._attach_parked(request)
        self._meanwhile.clear()
        self.go_on()

    def late_below(self, low: int) -> int:
        """Below which action no late emission is to come, where `low` is the oldest not acknowledged."""
        if not self.whole:
            return 0
        return low if self.parked.low is None else min(low, self.parked.low)

    def delivered(self, request: Request) -> None:
        """The broker has one more emission of `request`."""
        request.in_flight -= 1
        self._settle(request)

    def _forget(self, duplicate: Request) -> None:
        del self._requests[duplicate.request_id]
        duplicate.due = False
        self.open_requests -= 1
        self._counts.duplicates += 1

    def _begin(self, request: Request) -> None:
        """All that was said of `request` before is known."""
        request.mean = self._sampler.mean(request.offset)
        # rows of which nothing was said before that are those that sampling dropped
        request.open = request.offset >= self._closed_below
        self._attach_parked(request)
        for arrival in self.waiting.take(request.request_id):
            self._attach(request, arrival)

    def _admit(self, request: Request) -> None:
        self._requests[request.request_id] = request
        self._ticket += 1
        close_at = request.event_time + self._rules.window
        heapq.heappush(self._closing, (close_at, self._ticket, request))
        self.open_requests += 1
        if self.open_requests > self._rules.open_limit and request.packed is not None:
            self._store.put_log(request.request_id, request.packed)
            request.packed, request.stored = None, True
            self._counts.spilled += 1

    def _try_again(self) -> None:
        for arrival in self.waiting.take_all():
            self._dispatch(arrival)

    def _dispatch(self, arrival: Arrival) -> None:
        request_id = arrival.action.request_id
        request = self._requests.get(request_id)
        if request is None and not (self.held or self.store_behind or request_id in self.waiting):
            request = self._find(request_id)
        if request is not None and not self.held:
            self._attach(request, arrival)
            return
        self.waiting.add(arrival)
        # who takes over looks for parked actions of requests that it does not know: these may be known
        known_to_store = not (self.held or self.store_behind)
        if known_to_store and len(self.waiting) > self._rules.open_limit:
            self._set_aside(self.waiting.take_first())

    def _find(self, request_id: str) -> Request | None:
        """The closed request of that id; None, too, for one whose log is still to be read again."""
        state = self._store.state(request_id)
        packed = None if state is None else self._store.log(request_id)
        return None if state is None or packed is None else Request.closed(unpacked(packed), packed, state)

    def _set_aside(self, arrivals: Sequence[Arrival]) -> None:
        """Actions of one request have waited long enough in memory."""
        if self._makes_late:
            self._park(arrivals)
            self.released.extend([a.offset for a in arrivals])
        else:
            for arrival in arrivals:
                self._reject(arrival, "unmatched_action", f"no feature log of {arrival.action.request_id!r}")

    def _park(self, arrivals: Sequence[Arrival]) -> None:
        self.parked.add(arrivals)
        self._counts.parked += len(arrivals)
        if not self.whole:
            self._meanwhile.add(arrivals[0].action.request_id)

    def _attach_parked(self, request: Request) -> None:
        for arrival in self.parked.of(request.request_id):
            request.parked = True
            self._attach(request, arrival)
        if request.parked and not request.open and not request.in_flight:
            self.parked.drop(request.request_id)

    def _attach(self, request: Request, arrival: Arrival) -> None:
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
        if not request.open or request.spoken or self._rules.early:
            self._tell(request, fresh, arrival)

    def _refuse(self, request: Request, arrival: Arrival, hit: int, fresh: int) -> None:
        """No label comes of `arrival`."""
        if not hit:
            item = arrival.action.item_id
            self._reject(arrival, "unknown_item", f"item {item} was not shown in this request")
        elif not fresh:
            self._counts.duplicates += 1
            if not arrival.parked:
                self.released.append(arrival.offset)
        elif arrival.action.event_time > request.event_time + self._reach:
            end = request.event_time + self._reach
            self._reject(arrival, "late_action", f"actions for it counted until {end}")
        else:
            self._reject(arrival, "late_action", "the labels of this request have been emitted")

    def _tell(self, request: Request, fresh: int, arrival: Arrival) -> None:
        """Emit what does not wait for the close."""
        if not request.open:
            self._requests[request.request_id] = request
            self._emitter.late(request, fresh, arrival.offset)
            return
        # an earlier owner may have closed it, and emitted these as negatives
        taken_back = fresh & request.spoken
        if taken_back:
            self._emitter.late(request, taken_back, arrival.offset)
        early = fresh & ~request.spoken
        if early and self._rules.early:
            self._emitter.early(request, early)

    def _close(self, request: Request) -> None:
        self.open_requests -= 1
        request.due = False
        if request.open:
            request.open = False
            self._emitter.close(request)
        else:
            self.emitted.append(request)
        self._settle(request)

    def _settle(self, request: Request) -> None:
        """Put `request` away if it has closed and all that was emitted of it has arrived."""
        if request.due or request.in_flight:
            return
        del self._requests[request.request_id]
        if request.packed is not None and not request.stored:
            self._store.put_log(request.request_id, request.packed)
        self._store.put_state(request.request_id, request.state())
        if request.parked:
            self.parked.drop(request.request_id)
        if not self.whole:
            self._meanwhile.add(request.request_id)
        self.settled.append(request)

    def _reject(self, arrival: Arrival, reason: str, detail: str) -> None:
        self.rejected.append(Rejected(arrival, reason, detail))

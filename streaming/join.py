"""The join of one partition: requests opened by feature logs, actions attached, closed by the watermark.

A pure state machine: event times come with the records and with `advance`; it knows no clock, no Kafka and no
wire format of its results. Each (impression, task) is emitted once; a positive that comes after its negative
was emitted takes that back.
"""

from __future__ import annotations

from collections.abc import Sequence

from streaming.attach import Attacher
from streaming.closing import Closing
from streaming.counts import Counts
from streaming.emitter import Emitter
from streaming.gathering import Gathering, Heard
from streaming.heads import Seen
from streaming.hearing import action_of, hear
from streaming.late import LateStore, unpacked
from streaming.request import Request, State
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.shelf import Shelf
from streaming.waiting import Arrival


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
        self._attacher = Attacher(rules, self._emitter, counts)
        self.rejected, self.released = self._attacher.rejected, self._attacher.released
        self.settled: list[Request] = []
        self.held = False
        self.store_behind = False
        self._shelf = Shelf(rules, store, self._attacher, counts)
        self.waiting, self.parked = self._shelf.waiting, self._shelf.parked
        self.park_again, self.late_below = self._shelf.park_again, self._shelf.late_below
        self.open_requests = 0
        self._window, self._open_limit, self._early = rules.window, rules.open_limit, rules.early
        self._kinds = rules.kinds
        self._gathering = Gathering(rules)
        self._to_gather: list[Request] = []
        self._sampler = sampler
        self._store = store
        self._counts = counts
        self._requests: dict[str, Request] = {}
        self._closing = Closing()
        self._closed_below = 0

    @property
    def whole(self) -> bool:
        """Whether the store holds every closed request that late actions may speak of."""
        return self._shelf.whole

    @whole.setter
    def whole(self, whole: bool) -> None:
        self._shelf.whole = whole

    def open(self, logs: Sequence[Seen], offset: int) -> list[int]:
        """The feature logs of a message came.

        Returns:
            For each duplicate, which changes nothing, the offset of the log that came first.
        """
        doubled = []
        states = self._store.states([head.request_id for _, head, _ in logs])
        for (packed, head, index), state in zip(logs, states, strict=True):
            known = self._requests.get(head.request_id)
            first = state if known is None else known
            if first is not None and (first.offset, first.index) != (offset, index):
                doubled.append(first.offset)
            elif known is not None:  # an action has found it on disk before its log was read again
                known.owes_log = True
                self.emitted.append(known)
            else:
                self._admit(Request(head, packed, offset, index), state)
        self._counts.duplicates += len(doubled)
        self._start_gathering()
        return doubled

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

    def hear(self, value: bytes | None, offset: int, limit: int) -> Heard:
        """A message of actions came; those of after `limit` are refused.

        Most only add to the hits of a request that gathers: that is done for all of them in one go.

        Raises:
            InvalidMessage: it cannot be read, and changes nothing.
        """
        heard = hear(self._gathering, value, offset, limit)
        self._counts.duplicates += heard.doubled
        self._counts.ignored += heard.ignored
        self.released.extend([offset] * (heard.doubled + heard.ignored))
        for odd in heard.odd:
            arrival = Arrival(action_of(odd.packed), odd.user_id, offset, odd.position)
            event_time = arrival.action.event_time
            if event_time > limit:
                self._attacher.reject(arrival, "future_event", f"event time {event_time} is past {limit}")
            else:
                self.act(arrival)
        return heard

    def advance(self, watermark: int) -> None:
        """Event time has come to `watermark`: an event older than that is not expected any more."""
        if self.held:
            return
        if not self.store_behind:
            self._shelf.end_waits(watermark)
        closing = self._closing.take(watermark)
        if closing:
            self._close([request for request in closing if request.due])
        if not self.store_behind:
            self._shelf.expire(watermark)

    def recalled(self, closed_below: int = 0) -> list[tuple[int, int]]:
        """What earlier owners emitted is in the store: open requests take it over, closes may go on.

        Args:
            closed_below: they closed the requests of feature logs below this offset, and have said so.

        Returns:
            Of each duplicate among the open requests, the offset of the log that came first and its own.
        """
        self.held, self._closed_below, doubled = False, closed_below, []
        for request in sorted(self._closing, key=lambda r: r.offset):
            state = self._store.state(request.request_id)
            if state is not None and (state.offset, state.index) != (request.offset, request.index):
                self._forget(request)
                doubled.append((state.offset, request.offset))
                continue
            if state is not None:
                request.resume(state)
            self._begin(request)
        self._start_gathering()
        self._try_again()
        return doubled

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
            for request_id in self._shelf.meanwhile.union(found, self._requests):
                request = self._requests.get(request_id) or self._find(request_id)
                if request is not None and not self.held:
                    self._attach_parked(request)
        self._shelf.meanwhile.clear()
        self.go_on()

    def delivered(self, *requests: Request) -> None:
        """The broker has one more emission of each of `requests`."""
        done = []
        for request in requests:
            request.in_flight -= 1
            if not (request.in_flight or request.due):
                done.append(request)
        self._settle(done)

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
        if self.parked:
            self._attach_parked(request)
        if self.waiting:
            for arrival in self.waiting.take(request.request_id):
                self._attach(request, arrival)
        if request.open and not request.spoken and not self._early:
            self._to_gather.append(request)

    def _start_gathering(self) -> None:
        """Nothing is said before their close of those that have begun: an action only adds to their hits."""
        if self._to_gather:
            self._gathering.enter(self._to_gather)
            self._to_gather = []

    def _admit(self, request: Request, state: State | None) -> None:
        if state is not None:  # an earlier owner had it, and emitted this much
            request.resume(state)
        self._requests[request.request_id] = request
        self._closing.add(request, request.event_time + self._window)
        self.open_requests += 1
        if self.open_requests > self._open_limit and request.packed is not None:
            self._store.put_log(request.request_id, request.packed)
            request.packed, request.stored = None, True
            self._counts.spilled += 1
        if not self.held:
            self._begin(request)

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
        # who takes over looks for parked actions of requests that it does not know: these may be known
        self._shelf.add(arrival, may_park=not (self.held or self.store_behind))

    def _find(self, request_id: str) -> Request | None:
        """The closed request of that id; None, too, for one whose log is still to be read again."""
        state = self._store.state(request_id)
        packed = None if state is None else self._store.log(request_id)
        return None if state is None or packed is None else Request.closed(unpacked(packed), packed, state)

    def _attach_parked(self, request: Request) -> None:
        for arrival in self.parked.of(request.request_id):
            request.parked = True
            self._attach(request, arrival)
        if request.parked and not request.open and not request.in_flight:
            self.parked.drop(request.request_id)

    def _attach(self, request: Request, arrival: Arrival) -> None:
        if request.slot >= 0:  # it may do more now than gather
            self._gathering.leave([request])
        self._attacher.attach(request, arrival)
        if request.in_flight and not request.open:  # one that was found on disk
            self._requests[request.request_id] = request

    def _close(self, requests: Sequence[Request]) -> None:
        self.open_requests -= len(requests)
        self._gathering.leave([request for request in requests if request.slot >= 0])
        for request in requests:
            request.due = False
            if request.open:
                request.open = False
                self._emitter.close(request)
            else:
                self.emitted.append(request)
        self._settle([request for request in requests if not request.in_flight])

    def _settle(self, requests: Sequence[Request]) -> None:
        """Put away those that have closed, and of which all that was emitted has arrived."""
        for request in requests:
            del self._requests[request.request_id]
        self._store.put_closed(requests)
        for request in requests:
            if request.parked:
                self.parked.drop(request.request_id)
        if not self.whole:
            self._shelf.meanwhile.update(request.request_id for request in requests)
        self.settled.extend(requests)

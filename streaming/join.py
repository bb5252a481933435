"""The join of one partition: requests opened by feature logs, actions attached, closed by the watermark.

A pure state machine: event times come with the records and with `advance`; it knows no clock, no Kafka and no
wire format of its results. Each (impression, task) is emitted once; a positive that comes after its negative
was emitted takes that back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streaming.attach import Attacher
from streaming.counts import Counts
from streaming.emitter import Emitter
from streaming.gathering import Heard
from streaming.heads import Seen
from streaming.hearing import action_of
from streaming.late import LateStore, find_closed
from streaming.logs import Sheaf
from streaming.register import Closed, Gone
from streaming.request import Request, State
from streaming.requests import Requests
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
        self.gone: list[Gone] = []
        self.held = False
        self.store_behind = False
        self._shelf = Shelf(rules, store, self._attacher, counts)
        self.waiting, self.parked = self._shelf.waiting, self._shelf.parked
        self.park_again, self.late_below = self._shelf.park_again, self._shelf.late_below
        self.requests = Requests(rules)
        self._open_limit, self._early = rules.open_limit, rules.early
        self._kinds = rules.kinds
        self._says_nothing_early = not (rules.early or sampler.active)
        self._sampler = sampler
        self._store = store
        self._counts = counts
        self._closed_below = 0

    @property
    def open_requests(self) -> int:
        """How many have not closed."""
        return self.requests.open

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
            known = self.requests.get(head.request_id)
            first = state if known is None else known
            if first is not None and (first.offset, first.index) != (offset, index):
                doubled.append(first.offset)
            elif known is not None:  # an action has found it on disk before its log was read again
                known.owes_log = True
                self.emitted.append(known)
            else:
                self._admit(Request(head, packed, offset, index), state)
        self._counts.duplicates += len(doubled)
        self.requests.gather()
        return doubled

    def open_sheaf(self, sheaf: Sheaf, offset: int) -> list[int]:
        """As `open`, of a message that was read at once."""
        if not self._may_be_plain(sheaf, offset):
            return self.open(sheaf.seen(), offset)
        names = sheaf.names()
        if self._store.knows_any(names, parked=bool(self.parked)):
            return self.open(sheaf.seen(), offset)
        entered = self.requests.enter(sheaf, offset, names, self.waiting)
        if np.count_nonzero(entered) == sheaf.logs:
            return []
        return self.open(sheaf.seen(entered), offset)

    def act(self, arrival: Arrival) -> None:
        """An action came: it makes a label, waits, or ends in `rejected` or `released`."""
        action = arrival.action
        if action.kind not in self._kinds:
            self._counts.ignored += 1
            self.released.append(arrival.offset)
            return
        self._dispatch(arrival)

    def hear(self, value: bytes | None, offset: int, limit: int) -> Heard:
        """A message of actions came; those of after `limit` are refused.

        Most only add to the hits of a request that gathers: that is done for all of them in one go.

        Raises:
            InvalidMessage: it cannot be read, and changes nothing.
        """
        heard = self.requests.hear(value, offset, limit)
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

    def advance(self, watermark: int, stamp: tuple[int, int] = (0, 0)) -> None:
        """Event time, Unix ms, has come to `watermark`: an older event is not expected any more.

        `stamp`: see `Register.close`.
        """
        if self.held:
            return
        if not self.store_behind:
            self._shelf.end_waits(watermark)
        closing = self.requests.close(watermark, stamp)
        if closing:
            self._close(closing)
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
        for request in self.requests.in_order_of_logs():
            state = self._store.state(request.request_id)
            if state is not None and (state.offset, state.index) != (request.offset, request.index):
                self.requests.forget(request)
                self._counts.duplicates += 1
                doubled.append((state.offset, request.offset))
                continue
            if state is not None:
                request.resume(state)
            self._begin(request)
        self.requests.gather()
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
            for request_id in self._shelf.meanwhile.union(found, self.requests):
                request = self.requests.get(request_id) or find_closed(self._store, request_id)
                if request is not None and not self.held:
                    self._attach_parked(request)
        self._shelf.meanwhile.clear()
        self.go_on()

    def delivered(self, *requests: Request | int) -> None:
        """The broker has one more emission of each of `requests`; a plain one is its slot."""
        several = [one for one in requests if isinstance(one, Request)]
        if len(several) < len(requests):
            lifted, entries, gone = self.requests.delivered(requests)
            several += lifted
            self._store.put_entries(entries)
            self.gone.append(gone)
        done = []
        for request in several:
            request.in_flight -= 1
            if not (request.in_flight or request.due):
                done.append(request)
        self._settle(done)

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
            self.requests.may_gather(request)

    def _admit(self, request: Request, state: State | None) -> None:
        if state is not None:  # an earlier owner had it, and emitted this much
            request.resume(state)
        self.requests.add(request)
        if self.open_requests > self._open_limit and request.packed is not None:
            self._store.put_log(request.request_id, request.packed)
            request.packed = None
            self._counts.spilled += 1
        if not self.held:
            self._begin(request)

    def _may_be_plain(self, sheaf: Sheaf, offset: int) -> bool:
        """Whether requests that nothing is known of are no more than slots until they close."""
        return (
            self._says_nothing_early
            and not self.held
            and self.whole
            and offset >= self._closed_below
            and self.open_requests + sheaf.logs <= self._open_limit
            and self.requests.register.takes(sheaf)
        )

    def _try_again(self) -> None:
        for arrival in self.waiting.take_all():
            self._dispatch(arrival)

    def _dispatch(self, arrival: Arrival) -> None:
        request_id = arrival.action.request_id
        request = self.requests.get(request_id)
        if request is None and not (self.held or self.store_behind or request_id in self.waiting):
            request = find_closed(self._store, request_id)
        if request is not None and not self.held:
            self._attach(request, arrival)
            return
        # who takes over looks for parked actions of requests that it does not know: these may be known
        self._shelf.add(arrival, may_park=not (self.held or self.store_behind))

    def _attach_parked(self, request: Request) -> None:
        for arrival in self.parked.of(request.request_id):
            request.parked = True
            self._attach(request, arrival)
        if request.parked and not request.open and not request.in_flight:
            self.parked.drop(request.request_id)

    def _attach(self, request: Request, arrival: Arrival) -> None:
        self.requests.stop_gathering(request)
        self._attacher.attach(request, arrival)
        if request.in_flight and not request.open:  # one that was found on disk
            self.requests.come_back(request)

    def _close(self, closing: Sequence[Request | Closed]) -> None:
        for one in closing:
            if isinstance(one, Request) and one.open:
                one.open = False
                self._emitter.close(one)
            else:
                self.emitted.append(one)
        self._settle([one for one in closing if isinstance(one, Request) and not one.in_flight])

    def _settle(self, requests: Sequence[Request]) -> None:
        """Put away those that have closed, and of which all that was emitted has arrived."""
        if not requests:
            return
        self._store.put_closed(requests)
        for request in requests:
            self.requests.drop(request)
            if request.parked:
                self.parked.drop(request.request_id)
        if not self.whole:
            self._shelf.meanwhile.update(request.request_id for request in requests)
        self.settled.extend(requests)

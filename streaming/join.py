"""The join of one partition: requests opened by feature logs, actions attached, closed by the watermark.

A pure state machine: event times come with the records and with `advance`; it knows no clock, no Kafka and no
wire format of its results. Each (impression, task) is emitted once; a positive that comes after its negative
was emitted takes that back.
"""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import NamedTuple

import msgspec

from schema.records import FeatureLog
from streaming.counts import Counts
from streaming.late import LateStore, LateStoreError, pack, unpack
from streaming.request import NONE, Bits, Request
from streaming.rules import Rules
from streaming.sampling import Sampler, draws
from streaming.waiting import Arrival, Waiting


class Rejected(NamedTuple):
    """An action that no label came of, and why."""

    arrival: Arrival
    reason: str
    detail: str


class Emission(NamedTuple):
    """Rows of a request to be emitted: bit sets of positive tasks and of the tasks spoken for, by row.

    `mask` None: every row, for every task. `late`: the offset of the action that made it after the close, -1
    at or before it.
    """

    request: Request
    log: FeatureLog
    labels: Bits
    mask: Bits | None = None
    retract: Bits = NONE
    late: int = -1


class MissingLog(Exception):  # noqa: N818 - named for what happened
    """The features of an open request were on disk, and are not there any more."""


class Join:
    """The open requests, waiting actions and recently closed requests of one partition.

    Lists collect what the caller has to deal with and clear: `emitted`, where a request follows its last
    emission on time; `settled` requests, of which everything has arrived; `rejected`, actions for the dead
    letters; and `released`, offsets of actions
    that need nothing more. An emission has to come back through `delivered`. While `held`, nothing closes and
    no action counts; while `store_behind`, actions of unknown requests wait.

    Args:
        number: the partition.
        rules: the window and what makes a label.
        sampler: which rows without a positive label stay.
        store: where closed requests are kept.
        counts: where to count.
    """

    def __init__(self, number: int, rules: Rules, sampler: Sampler, store: LateStore, counts: Counts) -> None:
        self.emitted: list[Emission | Request] = []
        self.rejected: list[Rejected] = []
        self.released: list[int] = []
        self.settled: list[Request] = []
        self.held = False
        self.store_behind = False
        self.waiting = Waiting(rules.window)
        self.open_requests = 0
        self._number = number
        self._rules = rules
        self._sampler = sampler
        self._store = store
        self._counts = counts
        self._requests: dict[str, Request] = {}
        self._closing: list[tuple[int, int, Request]] = []
        self._ticket = 0

    def open(self, log: FeatureLog, offset: int, index: int) -> int | None:
        """A feature log came.

        Returns:
            None, or for a duplicate, which changes nothing, the offset of the log that came first.
        """
        self._counts.feature_logs += 1
        known = self._requests.get(log.request_id)
        state = None if known is not None else self._store.state(log.request_id)
        first = known or state
        if first is not None and (first.offset, first.index) != (offset, index):
            self._counts.duplicates += 1
            return first.offset
        request = Request(
            log, offset, index, close_at=log.event_time + self._rules.window, mean=self._sampler.plan(log)
        )
        if state is not None:  # an earlier owner had it, and emitted this much
            request.resume(state)
        self._admit(request)
        if not self.held:
            for arrival in self.waiting.take(log.request_id):
                self._attach(request, arrival)
        return None

    def act(self, arrival: Arrival) -> None:
        """An action came: it makes a label, waits, or ends in `rejected` or `released`."""
        self._counts.actions += 1
        if arrival.action.kind in self._rules.kinds:
            self._dispatch(arrival)
        else:
            self._counts.ignored += 1
            self.released.append(arrival.offset)

    def advance(self, watermark: int) -> None:
        """Event time has come to `watermark`: an event older than that is not expected any more."""
        if self.held:
            return
        if not self.store_behind:
            for arrival in self.waiting.expire(watermark):
                self._reject(arrival, "unmatched_action", f"no feature log of {arrival.action.request_id!r}")
        while self._closing and self._closing[0][0] < watermark:
            self._close(heapq.heappop(self._closing)[2])

    def recalled(self) -> None:
        """What earlier owners emitted is in the store: open requests take it over, closes may go on."""
        self.held = False
        for _, _, request in self._closing:
            state = self._store.state(request.request_id)
            if state is not None and (state.offset, state.index) == (request.offset, request.index):
                request.resume(state)
        self._try_again()

    def caught_up(self) -> None:
        """The store holds every closed request that late actions may speak of."""
        self.store_behind = False
        if not self.held:
            self._try_again()

    def delivered(self, request: Request) -> None:
        """The broker has one more emission of `request`."""
        request.in_flight -= 1
        self._settle(request)

    def _admit(self, request: Request) -> None:
        self._requests[request.request_id] = request
        self._ticket += 1
        heapq.heappush(self._closing, (request.close_at, self._ticket, request))
        self.open_requests += 1
        assert request.log is not None  # noqa: S101 - it came with it
        packed, request.log = pack(request.log), None
        if self.open_requests > self._rules.open_limit:
            self._store.put_log(request.request_id, packed)
            self._counts.spilled += 1
        else:
            request.packed = packed

    def _try_again(self) -> None:
        for arrival in self.waiting.take_all():
            self._dispatch(arrival)

    def _dispatch(self, arrival: Arrival) -> None:
        if self.held:
            self.waiting.add(arrival)
            return
        request_id = arrival.action.request_id
        request = self._requests.get(request_id)
        if request is not None:
            self._attach(request, arrival)
            return
        closed = None if self.store_behind else self._find(request_id)
        if closed is None:
            self.waiting.add(arrival)
        else:
            self._attach(closed, arrival)

    def _find(self, request_id: str) -> Request | None:
        """The closed request of that id; None, too, for one whose log is still to be read again."""
        state = self._store.state(request_id)
        packed = None if state is None else self._store.log(request_id)
        return None if state is None or packed is None else Request.closed(self._unpack(packed), state)

    def _attach(self, request: Request, arrival: Arrival) -> None:
        action = arrival.action
        # also for those that change nothing: a re-reader who meets one must find the request again
        request.last_action = max(request.last_action, arrival.offset)
        rows, bits = request.rows_of(action.item_id), self._rules.kinds[action.kind]
        fresh = {row: new for row in rows if (new := bits & ~request.hits.get(row, 0))}
        if not rows:
            self._reject(arrival, "unknown_item", f"item {action.item_id} was not shown in this request")
        elif not fresh:
            self._counts.duplicates += 1
            self.released.append(arrival.offset)
        elif action.event_time > request.event_time + self._rules.reach:
            end = request.event_time + self._rules.reach
            self._reject(arrival, "late_action", f"actions for it counted until {end}")
        elif not (request.open or self._rules.makes_late):
            self._reject(arrival, "late_action", "the labels of this request have been emitted")
        else:
            self._label(request, fresh, arrival.offset)

    def _label(self, request: Request, fresh: dict[int, int], action_offset: int) -> None:
        request.owe(action_offset)
        if request.open and not self._rules.early and not request.spoken:
            request.note(fresh)  # it waits for the close
            return
        request.hit(fresh)
        if not request.open:
            self._requests[request.request_id] = request
            self._emit_late(request, fresh, action_offset)
            return
        # an earlier owner may have closed it, and emitted these as negatives
        taken_back = _common(fresh, request.spoken)
        if taken_back:
            self._emit_late(request, taken_back, action_offset)
        if self._rules.early:
            early = {row: new for row, bits in fresh.items() if (new := bits & ~request.spoken.get(row, 0))}
            if early:
                request.speak(early)
                self._emit(Emission(request, self._log_of(request), request.hits, early))

    def _emit_late(self, request: Request, fresh: Bits, action_offset: int) -> None:
        every = self._rules.all_tasks
        # a row that sampling had dropped speaks for all its tasks now, as if it had been positive in time
        mask = {row: bits if request.spoken.get(row) else every for row, bits in fresh.items()}
        retract = _common(fresh, request.spoken)
        request.speak(mask)
        self._counts.late += 1
        self._emit(Emission(request, self._log_of(request), request.hits, mask, retract, action_offset))

    def _close(self, request: Request) -> None:
        request.open = False
        self.open_requests -= 1
        if not request.spoken and not self._sampler.active:
            request.spoken = _everything(len(request), self._rules.all_tasks)
            self._emit(Emission(request, self._log_of(request), request.hits))
        else:
            log = self._log_of(request)
            mask = self._due(request, log)
            request.speak(mask)
            if mask:
                self._emit(Emission(request, log, request.hits, mask))
        self.emitted.append(request)
        self._settle(request)

    def _due(self, request: Request, log: FeatureLog) -> dict[int, int]:
        """The tasks of each row that were not emitted yet; rows that sampling drops have none."""
        every, n = self._rules.all_tasks, len(request)
        due = {row: new for row in range(n) if (new := every & ~request.spoken.get(row, 0))}
        if self._sampler.active:
            keep = self._sampler.probabilities(log, request.mean)
            drawn = draws(self._number, request.offset, request.index, n)
            for row in [r for r in due if drawn[r] >= keep[r]]:
                if not request.hits.get(row) and not request.spoken.get(row):
                    del due[row]
                    self._counts.dropped += 1
        return due

    def _emit(self, emission: Emission) -> None:
        emission.request.in_flight += 1
        self.emitted.append(emission)

    def _settle(self, request: Request) -> None:
        """Put `request` away if it has closed and all that was emitted of it has arrived."""
        if request.open or request.in_flight:
            return
        del self._requests[request.request_id]
        if request.packed is not None:
            self._store.put_log(request.request_id, request.packed)
        self._store.put_state(request.request_id, request.state())
        self.settled.append(request)

    def _log_of(self, request: Request) -> FeatureLog:
        if request.log is not None:
            return request.log
        packed = request.packed or self._store.log(request.request_id)
        if packed is None:
            raise MissingLog(
                f"request {request.request_id!r}: its features are not in the late store any more"
            )
        return self._unpack(packed)

    def _unpack(self, packed: bytes) -> FeatureLog:
        try:
            return unpack(packed)
        except msgspec.DecodeError as error:
            raise LateStoreError(f"a feature log: {error}") from error

    def _reject(self, arrival: Arrival, reason: str, detail: str) -> None:
        self.rejected.append(Rejected(arrival, reason, detail))


def _common(some: Bits, others: Bits) -> dict[int, int]:
    return {row: both for row, bits in some.items() if (both := bits & others.get(row, 0))}


@lru_cache(maxsize=4096)
def _everything(rows: int, tasks: int) -> Bits:
    return dict.fromkeys(range(rows), tasks)

"""The join of one partition: requests opened by feature logs, actions attached, closed by the watermark.

A pure state machine: event times come with the records and with `advance`; it knows no clock, no Kafka and no
wire format of its results.
"""

from __future__ import annotations

import heapq
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from schema.config import TaskConfig
from schema.records import Action, FeatureLog
from streaming.counts import Counts

CLOSED_KEPT: Final = 20_000
"""How many closed requests a partition remembers, to tell late actions and duplicates from unknown ones."""


class Rules(msgspec.Struct, frozen=True):
    """What makes a label: the window in ms, the tasks in order, and the bit set of the tasks of each kind."""

    window: int
    tasks: tuple[str, ...]
    kinds: dict[str, int]

    @classmethod
    def of(cls, window_seconds: float, tasks: Sequence[TaskConfig]) -> Rules:
        """The rules that the configuration states."""
        kinds: dict[str, int] = {}
        for bit, task in enumerate(tasks):
            for kind in task.actions:
                kinds[kind] = kinds.get(kind, 0) | 1 << bit
        return cls(round(window_seconds * 1000), tuple(t.name for t in tasks), kinds)


class Arrival(NamedTuple):
    """An action and where its record lay."""

    action: Action
    user_id: int
    offset: int
    position: int
    """The index of its record in the envelope."""


class Rejected(NamedTuple):
    """An action that no label came of, and why."""

    arrival: Arrival
    reason: str
    detail: str


class Request:
    """A request whose window is open. `hits` maps a row to the bit set of its positive tasks."""

    __slots__ = (
        "action_offsets",
        "close_at",
        "hits",
        "index",
        "last_action",
        "log",
        "offset",
        "rows",
        "seen",
    )

    def __init__(self, log: FeatureLog, offset: int, index: int, close_at: int) -> None:
        self.log = log
        self.offset = offset
        self.index = index
        self.close_at = close_at
        self.rows: dict[int, int] | None = None
        self.hits: dict[int, int] = {}
        self.seen: set[tuple[int, str, int]] = set()
        self.action_offsets: list[int] = []
        self.last_action = -1

    def row_of(self, item_id: int) -> int | None:
        """The first impression of an item, None if it was not shown."""
        if self.rows is None:
            items = struct.unpack(f"<{len(self.log)}q", self.log.items)
            self.rows = dict(zip(reversed(items), range(len(items) - 1, -1, -1), strict=True))
        return self.rows.get(item_id)


class Join:
    """The open requests, waiting actions and recently closed requests of one partition.

    Two lists collect what the caller has to deal with and clear: `rejected`, actions for the dead letters,
    and `released`, offsets of actions that need nothing more.

    Args:
        rules: the window and what makes a label.
        counts: where to count.
    """

    def __init__(self, rules: Rules, counts: Counts) -> None:
        self.rejected: list[Rejected] = []
        self.released: list[int] = []
        self._rules = rules
        self._counts = counts
        self._open: dict[str, Request] = {}
        self._closing: list[tuple[int, int, Request]] = []
        self._waiting: dict[str, list[Arrival]] = {}
        self._expiring: list[tuple[int, int, str]] = []
        self._closed: dict[str, tuple[int, set[tuple[int, str, int]]]] = {}
        self._closed_order: deque[str] = deque()
        self._ticket = 0
        self._waiting_count = 0

    @property
    def open_requests(self) -> int:
        """How many requests are open."""
        return len(self._open)

    @property
    def pending_actions(self) -> int:
        """How many actions wait for their feature log."""
        return self._waiting_count

    def open(self, log: FeatureLog, offset: int, index: int) -> int | None:
        """A feature log came.

        Returns:
            None, or for a duplicate, which changes nothing, the offset of the log that came first.
        """
        self._counts.feature_logs += 1
        first = self._known(log.request_id)
        if first is not None:
            self._counts.duplicates += 1
            return first
        request = Request(log, offset, index, log.event_time + self._rules.window)
        self._open[log.request_id] = request
        self._ticket += 1
        heapq.heappush(self._closing, (request.close_at, self._ticket, request))
        waiting = self._waiting.pop(log.request_id, None)
        if waiting is not None:
            self._waiting_count -= len(waiting)
            for arrival in waiting:
                self._attach(request, arrival)
        return None

    def act(self, arrival: Arrival) -> None:
        """An action came. It is attached, waits for its feature log, or ends in `rejected` or `released`."""
        action = arrival.action
        self._counts.actions += 1
        if action.kind not in self._rules.kinds:
            self._counts.ignored += 1
            self.released.append(arrival.offset)
            return
        request = self._open.get(action.request_id)
        if request is not None:
            self._attach(request, arrival)
        elif action.request_id in self._closed:
            self._act_late(arrival)
        else:
            self._wait(arrival)

    def advance(self, watermark: int) -> list[Request]:
        """Event time has come to `watermark`: an event older than that is not expected any more.

        Returns:
            the requests whose window ended before it, in the order in which they ended.
        """
        self._expire(watermark)
        done: list[Request] = []
        while self._closing and self._closing[0][0] < watermark:
            request = heapq.heappop(self._closing)[2]
            del self._open[request.log.request_id]
            self._remember(request)
            done.append(request)
        return done

    def _known(self, request_id: str) -> int | None:
        request = self._open.get(request_id)
        if request is not None:
            return request.offset
        closed = self._closed.get(request_id)
        return None if closed is None else closed[0]

    def _attach(self, request: Request, arrival: Arrival) -> None:
        action = arrival.action
        # also for those that change nothing: a re-reader who meets one must find the request again
        request.last_action = max(request.last_action, arrival.offset)
        row = request.row_of(action.item_id)
        key = (action.item_id, action.kind, action.event_time)
        if key in request.seen:
            self._drop_duplicate(arrival)
        elif row is None:
            self._reject(arrival, "unknown_item", f"item {action.item_id} was not shown in this request")
        elif action.event_time > request.close_at:
            self._reject(arrival, "late_action", f"the window had ended at {request.close_at}")
        else:
            request.seen.add(key)
            request.hits[row] = request.hits.get(row, 0) | self._rules.kinds[action.kind]
            request.action_offsets.append(arrival.offset)

    def _act_late(self, arrival: Arrival) -> None:
        action = arrival.action
        _, seen = self._closed[action.request_id]
        if (action.item_id, action.kind, action.event_time) in seen:
            self._drop_duplicate(arrival)
        else:
            self._reject(arrival, "late_action", "the labels of this request have been emitted")

    def _wait(self, arrival: Arrival) -> None:
        action = arrival.action
        self._waiting.setdefault(action.request_id, []).append(arrival)
        self._waiting_count += 1
        self._ticket += 1
        heapq.heappush(
            self._expiring, (action.event_time + self._rules.window, self._ticket, action.request_id)
        )

    def _expire(self, watermark: int) -> None:
        while self._expiring and self._expiring[0][0] < watermark:
            request_id = heapq.heappop(self._expiring)[2]
            kept = []
            for arrival in self._waiting.pop(request_id, ()):
                if arrival.action.event_time + self._rules.window < watermark:
                    self._reject(arrival, "unmatched_action", f"no feature log of request {request_id!r}")
                    self._waiting_count -= 1
                else:
                    kept.append(arrival)
            if kept:
                self._waiting[request_id] = kept

    def _drop_duplicate(self, arrival: Arrival) -> None:
        self._counts.duplicates += 1
        self.released.append(arrival.offset)

    def _reject(self, arrival: Arrival, reason: str, detail: str) -> None:
        self.rejected.append(Rejected(arrival, reason, detail))

    def _remember(self, request: Request) -> None:
        self._closed[request.log.request_id] = (request.offset, request.seen)
        self._closed_order.append(request.log.request_id)
        if len(self._closed_order) > CLOSED_KEPT:
            del self._closed[self._closed_order.popleft()]

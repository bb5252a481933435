"""The requests of which nothing is said before their close, in a table that compiled code puts actions into.

What it cannot read, or what an action may do but add to hits, it leaves to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from streaming.kernels import actions as found
from streaming.kernels import table
from streaming.kernels.actions import match, parse
from streaming.request import Request
from streaming.rules import Rules
from streaming.slots import Slots

_ROWS_AT_MOST: Final = 64
_TASKS_AT_MOST: Final = 63


def rows_at_most(tasks: int) -> int:
    """How many impressions a request may have to be taken: none where the tasks do not fit in a word."""
    return _ROWS_AT_MOST if tasks <= _TASKS_AT_MOST else 0


class Odd(NamedTuple):
    """An action that needs more: its user, the position of its record, and its bytes."""

    user_id: int
    position: int
    packed: bytes


class Heard(NamedTuple):
    """What became of a message of actions.

    There were `actions`, the latest of event time `newest` (-1 without any); those `doubled` and those of a
    kind that is `ignored` need nothing more, those `odd` are left to the caller, in order. `beats` are its
    heartbeats, of which the latest is `word`.
    """

    actions: int
    newest: int
    doubled: int
    ignored: int
    odd: Sequence[Odd]
    beats: int
    word: int


class Gathering:
    """The table of one partition.

    Args:
        rules: what makes a label.
        slots: the table.
    """

    def __init__(self, rules: Rules, slots: Slots) -> None:
        self._slots = slots
        self._tasks = len(rules.tasks)
        self._rows_at_most = rows_at_most(self._tasks)
        self._reach = rules.reach
        kinds = [kind.encode() for kind in rules.kinds]
        self._kinds = np.frombuffer(b"".join(kinds), np.uint8)
        self._kind_ends = np.cumsum([len(kind) for kind in kinds], dtype=np.int64)
        self._bits = np.array(list(rules.kinds.values()) if self._rows_at_most else [], np.int64)
        self._actions = np.empty((0, found.FIELDS), np.int64)

    def enter(self, requests: Sequence[Request]) -> None:
        """Take these over, none of which is here; one that does not fit stays without a slot."""
        if not requests:
            return
        names = [request.request_id.encode() for request in requests]
        rows = [len(request.items) // 8 for request in requests]
        if max(map(len, names)) > table.ID_BYTES or max(rows) > self._rows_at_most:
            self.enter([r for r, name in zip(requests, names, strict=True) if self._fits(r, name)])
            return
        kept = self._slots
        slots = kept.take(len(requests), max(rows))
        entries = np.empty((len(requests), table.ENTRY), np.int64)
        entries[:, table.SLOT] = slots
        entries[:, table.ID_SIZE] = list(map(len, names))
        entries[:, table.SHOWN] = rows
        entries[:, table.COUNTS_UNTIL] = [request.event_time for request in requests]
        entries[:, table.COUNTS_UNTIL] += self._reach
        put = table.enter(
            np.frombuffer(b"".join(names), np.uint8),
            np.frombuffer(b"".join([request.items for request in requests]), np.int64),
            entries, kept.index, kept.slots, kept.ids, kept.items, kept.hits,
        )  # fmt: skip
        if put != len(requests):
            raise AssertionError(f"request {requests[put].request_id!r} has entered before")
        for request, slot in zip(requests, slots, strict=True):
            request.slot = slot
            if request.last_action >= 0 or request.hits:
                said = request.hits.to_bytes(8 * kept.hits.shape[1], "little")
                kept.hits[slot] = np.frombuffer(said, np.uint64)
                kept.slots[slot, table.LAST] = request.last_action

    def _fits(self, request: Request, name: bytes) -> bool:
        return len(name) <= table.ID_BYTES and len(request) <= self._rows_at_most

    def leave(self, requests: Sequence[Request]) -> None:
        """Give these back, each of which has a slot, with what has come of them."""
        if not requests:
            return
        chosen = [request.slot for request in requests]
        for request, told in zip(requests, self._slots.leave(chosen), strict=True):
            request.hear(*told)
            request.slot = -1
        self._slots.give_back(chosen)

    def hear(self, body: bytes | memoryview, offset: int, limit: int) -> Heard | None:
        """A message of actions came, whose MessagePack is `body`; those of after `limit` are odd.

        Returns:
            None, and nothing is done, if it is not as our codec writes it.
        """
        view = np.frombuffer(body, np.uint8)
        if len(view) // found.LEAST_BYTES >= len(self._actions):
            self._actions = np.empty((len(view) // found.LEAST_BYTES * 2 + 1, found.FIELDS), np.int64)
        kept, actions = self._slots, self._actions
        totals = kept.totals
        if not self._rows_at_most or not parse(
            view, self._kinds, self._kind_ends, self._bits, actions, totals
        ):
            return None
        kept.make_nodes(int(totals[found.COUNT]))
        match(
            view, actions, totals, offset, limit, self._tasks,
            kept.index, kept.slots, kept.ids, kept.items, kept.hits, kept.owed,
        )  # fmt: skip
        count, newest, doubled, ignored, odd, beats, word, _ = totals.tolist()
        kept.chained(count - doubled - ignored - odd)
        return Heard(count, newest, doubled, ignored, self._odd(body, odd), beats, word)

    def _odd(self, body: bytes | memoryview, count: int) -> Sequence[Odd]:
        rows: Any = self._actions[:count].tolist() if count else ()
        return [
            Odd(row[found.USER], row[found.POSITION], bytes(body[row[found.START] : row[found.END]]))
            for row in rows
        ]

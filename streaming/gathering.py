"""The requests of which nothing is said before their close, in a table that compiled code puts actions into.

Owns the arrays. What it cannot read, or what an action may do but add to hits, it leaves to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import actions as found
from streaming.kernels import table
from streaming.kernels.actions import match, parse
from streaming.request import Request
from streaming.rules import Rules

_ROWS_AT_MOST: Final = 64
_TASKS_AT_MOST: Final = 63
_SLOTS: Final = 256
_WIDER_BY: Final = 8
_PLACES_A_SLOT: Final = 4
_CELLS: Final = 64
"""Pairs in a word of hits."""


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
    """

    def __init__(self, rules: Rules) -> None:
        self._tasks = len(rules.tasks)
        self._rows_at_most = rows_at_most(self._tasks)
        self._reach = rules.reach
        kinds = [kind.encode() for kind in rules.kinds]
        self._kinds = np.frombuffer(b"".join(kinds), np.uint8)
        self._kind_ends = np.cumsum([len(kind) for kind in kinds], dtype=np.int64)
        self._bits = np.array(list(rules.kinds.values()) if self._rows_at_most else [], np.int64)
        self._actions = np.empty((0, found.FIELDS), np.int64)
        self._totals = np.zeros(found.TOTALS, np.int64)
        self._spare = self._totals[found.FREE :]
        self._free = list(range(_SLOTS))
        self._nodes_left = 0
        self._index = np.full(_SLOTS * _PLACES_A_SLOT, table.FREE, np.int32)
        self._slots = np.zeros((_SLOTS, table.COLUMNS), np.int64)
        self._ids = np.zeros(_SLOTS * table.ID_BYTES, np.uint8)
        self._items = np.zeros((_SLOTS, _WIDER_BY), np.int64)
        self._hits = self._blank_hits()
        self._owed = np.empty((0, 2), np.int64)
        self._offsets = np.empty(0, np.int64)

    def enter(self, requests: Sequence[Request]) -> None:
        """Take these over, none of which is here; one that does not fit stays without a slot."""
        if not requests:
            return
        names = [request.request_id.encode() for request in requests]
        rows = [len(request.items) // 8 for request in requests]
        if max(map(len, names)) > table.ID_BYTES or max(rows) > self._rows_at_most:
            self.enter([r for r, name in zip(requests, names, strict=True) if self._fits(r, name)])
            return
        self._make_room(len(requests), max(rows))
        slots = [self._free.pop() for _ in requests]
        entries = np.empty((len(requests), table.ENTRY), np.int64)
        entries[:, table.SLOT] = slots
        entries[:, table.ID_SIZE] = list(map(len, names))
        entries[:, table.SHOWN] = rows
        entries[:, table.COUNTS_UNTIL] = [request.event_time for request in requests]
        entries[:, table.COUNTS_UNTIL] += self._reach
        put = table.enter(
            np.frombuffer(b"".join(names), np.uint8),
            np.frombuffer(b"".join([request.items for request in requests]), np.int64),
            entries, self._index, self._slots, self._ids, self._items, self._hits,
        )  # fmt: skip
        if put != len(requests):
            raise AssertionError(f"request {requests[put].request_id!r} has entered before")
        for request, slot in zip(requests, slots, strict=True):
            request.slot = slot
            if request.last_action >= 0 or request.hits:
                said = request.hits.to_bytes(8 * self._hits.shape[1], "little")
                self._hits[slot] = np.frombuffer(said, np.uint64)
                self._slots[slot, table.LAST] = request.last_action

    def _fits(self, request: Request, name: bytes) -> bool:
        return len(name) <= table.ID_BYTES and len(request) <= self._rows_at_most

    def leave(self, requests: Sequence[Request]) -> None:
        """Give these back, each of which has a slot, with what has come of them."""
        if not requests:
            return
        chosen = np.array([request.slot for request in requests], np.int64)
        words = self._hits.shape[1]
        said = np.empty((len(requests), table.SAID + words), np.uint64)
        owed = self._offsets
        self._nodes_left += table.leave(
            chosen, self._index, self._slots, self._hits, self._owed, self._spare, said, owed
        )
        begin = 0
        for request, (last, owes, *hits) in zip(requests, said.tolist(), strict=True):
            request.hits = hits[0] if words == 1 else _joined(hits)
            request.last_action = last - 1
            if owes:
                request.owe_all(owed[begin : begin + owes].tolist())
                begin += owes
            self._free.append(request.slot)
            request.slot = -1

    def hear(self, body: bytes | memoryview, offset: int, limit: int) -> Heard | None:
        """A message of actions came, whose MessagePack is `body`; those of after `limit` are odd.

        Returns:
            None, and nothing is done, if it is not as our codec writes it.
        """
        view = np.frombuffer(body, np.uint8)
        if len(view) // found.LEAST_BYTES >= len(self._actions):
            self._actions = np.empty((len(view) // found.LEAST_BYTES * 2 + 1, found.FIELDS), np.int64)
        actions, totals = self._actions, self._totals
        if not self._rows_at_most or not parse(
            view, self._kinds, self._kind_ends, self._bits, actions, totals
        ):
            return None
        self._grow_owed(int(totals[found.COUNT]))
        match(
            view, actions, totals, offset, limit, self._tasks,
            self._index, self._slots, self._ids, self._items, self._hits, self._owed,
        )  # fmt: skip
        count, newest, doubled, ignored, odd, beats, word, _ = totals.tolist()
        self._nodes_left -= count - doubled - ignored - odd
        return Heard(count, newest, doubled, ignored, self._odd(body, odd), beats, word)

    def _odd(self, body: bytes | memoryview, count: int) -> Sequence[Odd]:
        rows: Any = self._actions[:count].tolist() if count else ()
        return [
            Odd(row[found.USER], row[found.POSITION], bytes(body[row[found.START] : row[found.END]]))
            for row in rows
        ]

    def _make_room(self, count: int, rows: int) -> None:
        """Free slots for so many requests of up to `rows`."""
        size, wide = len(self._slots), self._items.shape[1]
        if rows > wide:
            wide = -(-rows // _WIDER_BY) * _WIDER_BY
            self._resize(size, wide)
        more = size
        while len(self._free) + more - size < count:
            more *= 2
        if more > size:
            used = np.setdiff1d(np.arange(size), self._free)
            self._resize(more, wide)
            self._index = np.full(more * _PLACES_A_SLOT, table.FREE, np.int32)
            table.spread(used, self._index, self._slots)
            self._free.extend(range(size, more))

    def _resize(self, slots: int, wide: int) -> None:
        self._slots = _grown(self._slots, (slots, table.COLUMNS))
        self._ids = _grown(self._ids, (slots * table.ID_BYTES,))
        self._items = _grown(self._items, (slots, wide))
        self._hits = _grown(self._hits, self._blank_hits().shape)

    def _blank_hits(self) -> NDArray[np.uint64]:
        rows, wide = self._items.shape
        return np.zeros((rows, -(-wide * self._tasks // _CELLS)), np.uint64)

    def _grow_owed(self, count: int) -> None:
        """Room for the offsets of so many actions more."""
        if self._nodes_left >= count:
            return
        size = len(self._owed)
        more = max(2 * size, size + count, 1024)
        # the new places in a row, the last of which is followed by what was free before
        fresh = np.zeros((more - size, 2), np.int64)
        fresh[:, 1] = np.arange(size + 1, more + 1)
        fresh[-1, 1] = self._spare[0]
        self._owed = np.concatenate([self._owed, fresh])
        self._offsets = np.empty(more, np.int64)
        self._spare[0] = size
        self._nodes_left += more - size


def _joined(words: Sequence[int]) -> int:
    """The integer of which these are 64 bits each, the lowest first."""
    return sum(word << _CELLS * at for at, word in enumerate(words))


def _grown(part: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    grown = np.zeros(shape, part.dtype)
    grown[tuple(slice(n) for n in part.shape)] = part
    return grown

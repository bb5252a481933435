"""Open requests of which there is nothing but a slot in the table: no object, no bytes but their message's.

Most requests are such from their feature log to the late store. One of which more is to be said than that is
lifted out, and goes on as a `Request`. Knows the table and the messages; who may lie here the join decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming import cells
from streaming.gathering import rows_at_most
from streaming.heads import Brief
from streaming.kernels import register as found
from streaming.kernels import table
from streaming.late import Entry
from streaming.logs import Sheaf
from streaming.request import Request
from streaming.rules import Rules
from streaming.slots import Slots, grown

_LEAST: Final = 256


class Closed(NamedTuple):
    """Requests that have closed, in order: their slots, and offsets, rows, ends of windows, and indexes."""

    slots: list[int]
    offsets: list[int]
    rows: list[int]
    ends: list[int]
    indexes: list[int]


class Gone(NamedTuple):
    """Requests of which all has arrived.

    `logs`: the offset of a message, how many of its logs, and the latest offset of their last actions, -1 for
    none. `actions`: the offsets of the messages of actions that are acknowledged with them.
    """

    logs: list[tuple[int, int, int]]
    actions: list[int]


class Register:
    """The requests of one partition that lie in the table alone.

    Args:
        rules: windows and tasks.
        slots: the table.
    """

    def __init__(self, rules: Rules, slots: Slots) -> None:
        self._slots = slots
        self._tasks = len(rules.tasks)
        self._rows_at_most = rows_at_most(self._tasks)
        self._window, self._reach = rules.window, rules.reach
        self._ticket = 1
        self._count = 0
        self._values: dict[int, bytes] = {}
        self._left: dict[int, int] = {}
        self._lifted: dict[int, Request] = {}
        self._written: dict[int, bytes] = {}
        self._due = np.empty((_LEAST, 2), np.int64)
        self._due_slots = np.empty(_LEAST, np.int64)
        self._size = np.zeros(1, np.int64)
        self._closed = np.empty((found.CLOSED, _LEAST), np.int64)
        self._counts = np.empty(2, np.int64)
        self._out = np.empty(0, np.uint8)

    def __len__(self) -> int:
        """How many are here, open or not settled."""
        return self._count

    def takes(self, sheaf: Sheaf) -> bool:
        """Whether all requests of a message fit."""
        return sheaf.widest <= self._rows_at_most and sheaf.longest <= table.ID_BYTES

    def enter(self, sheaf: Sheaf, offset: int, wanted: NDArray[np.uint8]) -> int:
        """Requests open, whose logs lie in the message at `offset`; how many.

        Args:
            sheaf: the message; it has to fit.
            offset: where it lies.
            wanted: u1 (n,), which of its records; those that enter afterwards. One whose id is in the table
                already does not, nor one so far apart that the message would have to be kept for it alone.
        """
        kept, count = self._slots, len(sheaf.parts)
        free = kept.take(count, sheaf.widest)
        self._make_room(count)
        facts = np.array((offset, self._window, self._reach, self._ticket), np.int64)
        entered = found.enter(
            np.frombuffer(sheaf.value, np.uint8), sheaf.parts, facts, wanted, np.array(free, np.int64),
            self._due, self._due_slots, self._size,
            kept.index, kept.slots, kept.ids, kept.items, kept.hits,
        )  # fmt: skip
        self._ticket += count
        kept.give_back(free[entered:])
        if entered:
            self._count += entered
            self._values[offset], self._left[offset] = sheaf.value, entered
        return int(entered)

    def close(self, watermark: int, stamp: tuple[int, int]) -> Closed | None:
        """Those whose windows ended before `watermark`, in the order of their ends, and of their logs.

        Args:
            watermark: event time.
            stamp: `resolved_below` and `completed_at` of their blocks.
        """
        if not self._size[0] or self._due[0, 0] >= watermark:
            return None
        due, kept, closed = (self._due, self._due_slots, self._size), self._slots, self._closed
        count = found.close(watermark, *stamp, *due, kept.slots, closed)
        return Closed(*closed[:, :count].tolist()) if count else None

    def find(self, request_id: str) -> int:
        """The slot of a request that is here, or gathers; -1 for any other."""
        kept = self._slots
        name = np.frombuffer(request_id.encode(), np.uint8)
        return int(table.find(name, kept.index, kept.slots, kept.ids)) if self._count else -1

    def lift(self, slot: int) -> Request:
        """The request in `slot`, which goes on as what it is given back as.

        One that has closed has its block on its way: that is delivered as `slot` all the same.
        """
        if (lifted := self._lifted.get(slot)) is not None:
            return lifted
        kept = self._slots
        facts = kept.slots[slot].tolist()
        offset, start = facts[table.OFFSET], facts[table.START]
        packed = self._values[offset][start : start + facts[table.LOG_SIZE]]
        name = kept.ids[slot * table.ID_BYTES :][: facts[table.SIZE]].tobytes().decode()
        items = kept.items[slot, : facts[table.ROWS]].tobytes()
        request = Request(Brief(name, facts[table.TIME], items), packed, offset, facts[table.NTH])
        (told,) = kept.leave([slot])
        request.hear(*told)
        if facts[table.UNTIL] < 0:
            request.open = request.due = False
            request.spoken = cells.every(len(request), self._tasks)
            request.in_flight = 1
            self._lifted[slot] = request
        else:
            self._free(slot, offset)
        return request

    def facts(self, slots: Sequence[int]) -> tuple[list[bytes], NDArray[np.int64], NDArray[np.uint64]]:
        """What blocks of closed requests are written from: logs, `kernels.blocks` facts, positive pairs.

        To be asked before they are `delivered`.
        """
        chosen = np.array(slots, np.int64)
        facts = self._slots.slots[chosen]
        places: list[list[int]] = facts[:, table.START : table.OFFSET + 1].tolist()
        values = self._values
        packed = [values[offset][start : start + size] for start, size, offset in places]
        # the store is given the same bytes once the blocks have arrived
        self._written.update(zip(slots, packed, strict=True))
        told = np.ascontiguousarray(facts[:, table.LOG_SIZE : table.COMPLETED + 1])
        return packed, told, self._slots.hits[chosen]

    def delivered(self, slots: Sequence[int]) -> tuple[list[Request], list[Entry], Gone]:
        """The blocks of these have arrived.

        Returns:
            Those that were lifted out; of the others what is to be kept, and what may be acknowledged.
        """
        lifted = {slot: self._lifted.pop(slot) for slot in slots if slot in self._lifted}
        for slot, request in lifted.items():
            self._free(slot, request.offset)
        if lifted:
            slots = [slot for slot in slots if slot not in lifted]
        entries, gone = self._settled(slots) if slots else ([], Gone([], []))
        return list(lifted.values()), entries, gone

    def _settled(self, slots: Sequence[int]) -> tuple[list[Entry], Gone]:
        kept, chosen = self._slots, np.array(slots, np.int64)
        room = len(slots) * (table.ID_BYTES + 1 + found.STATE_BYTES + 2 * 8 * kept.hits.shape[1])
        if len(self._out) < room:
            self._out = np.empty(2 * room, np.uint8)
        said = np.empty((len(slots), found.SETTLED), np.int64)
        runs = np.empty((len(slots), found.RUN), np.int64)
        found.settle(
            chosen, self._tasks, kept.index, kept.slots, kept.ids, kept.hits, kept.owed, kept.spare,
            self._out, said, runs, kept.offsets, self._counts,
        )  # fmt: skip
        count, owes = self._counts.tolist()
        gone = Gone([tuple(run) for run in runs[:count].tolist()], kept.unchained(owes))
        for offset, several, _ in gone.logs:
            self._release(offset, several)
        self._count -= len(slots)
        kept.give_back(slots)
        logs = map(self._written.pop, slots)
        return _entries(self._out[: said[-1, found.HEAD_END]].tobytes(), said, logs), gone

    def _free(self, slot: int, offset: int) -> None:
        self._slots.slots[slot, table.TICKET] = 0
        self._slots.give_back([slot])
        self._written.pop(slot, None)
        self._count -= 1
        self._release(offset, 1)

    def _release(self, offset: int, count: int) -> None:
        """So many less need the message at `offset`."""
        self._left[offset] -= count
        if not self._left[offset]:
            del self._left[offset], self._values[offset]

    def _make_room(self, count: int) -> None:
        """For so many windows more."""
        needed = int(self._size[0]) + count
        if needed > len(self._due):
            more = max(needed, 2 * len(self._due))
            self._due, self._due_slots = grown(self._due, (more, 2)), grown(self._due_slots, (more,))
            self._closed = np.empty((found.CLOSED, more), np.int64)


def _entries(out: bytes, said: NDArray[np.int64], logs: Iterable[bytes]) -> list[Entry]:
    """What `kernels.register.settle` has written, piece by piece."""
    entries, at = [], 0
    rows: list[list[int]] = said.tolist()
    for (key_end, end), log in zip(rows, logs, strict=True):
        entries.append((out[at:key_end], out[key_end:end] + log))
        at = end
    return entries

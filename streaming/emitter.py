"""What is said of a request, and when: early positives, the rest at its close, late positives.

Decides which pairs each emission speaks for; knows neither windows nor arrivals.
"""

from __future__ import annotations

from streaming import cells
from streaming.counts import Counts
from streaming.emission import Emission
from streaming.heads import Head
from streaming.late import LateStore, unpacked
from streaming.register import Closed
from streaming.request import Request
from streaming.rules import Rules
from streaming.sampling import Sampler, draws
from streaming.whole import ROWS_AT_MOST, Whole


class MissingLog(Exception):  # noqa: N818 - named for what happened
    """The features of an open request were on disk, and are not there any more."""


class Emitter:
    """The emissions of one partition, for the caller to take out of `emitted`.

    Args:
        number: the partition.
        rules: the tasks.
        sampler: which rows without a positive label stay.
        store: where the feature logs of requests are that have none.
        counts: where to count.
    """

    def __init__(self, number: int, rules: Rules, sampler: Sampler, store: LateStore, counts: Counts) -> None:
        self.emitted: list[Emission | Whole | Request | Closed] = []
        self._number = number
        self._tasks = len(rules.tasks)
        self._sampler, self._sampled = sampler, sampler.active
        self._store = store
        self._counts = counts
        self._late: dict[tuple[str, int], int] = {}

    def early(self, request: Request, fresh: int) -> None:
        """Positives of an open request."""
        request.spoken |= fresh
        self._emit(Emission(request, unpacked(self._packed(request)), request.hits, fresh))

    def late(self, request: Request, fresh: int, action_offset: int) -> None:
        """One emission for all that a message says of a request: readers know a late pair by its message."""
        key = (request.request_id, action_offset)
        before = self._said_late(request, action_offset)
        told, retract = (0, 0) if before is None else (before.mask, before.retract)
        tasks, mask = self._tasks, fresh
        for row in cells.rows_in(fresh, tasks):
            # a row that sampling had dropped speaks for all its tasks now, as if it had been positive in time
            if not cells.of_row(request.spoken, row, tasks):
                mask |= cells.every(1, tasks) << row * tasks
        retract |= fresh & request.spoken & ~told
        request.spoken |= mask
        head = unpacked(self._packed(request)) if before is None else before.head
        emission = Emission(request, head, request.hits, told | mask, retract, action_offset)
        if before is None:
            self._late[key] = len(self.emitted)
            self._counts.late += 1
            self._emit(emission)
        else:
            self.emitted[self._late[key]] = emission

    def _said_late(self, request: Request, action_offset: int) -> Emission | None:
        """What is in `emitted` already of that message and request."""
        if not self.emitted:
            self._late.clear()
        at = self._late.get((request.request_id, action_offset), len(self.emitted))
        said = self.emitted[at] if at < len(self.emitted) else None
        same = isinstance(said, Emission) and said.request is request and said.late == action_offset
        return said if same and isinstance(said, Emission) else None

    def close(self, request: Request) -> None:
        """Everything that was not said of `request` before; rows that sampling drops are left out."""
        rows = len(request)
        every = cells.every(rows, self._tasks)
        if not (request.spoken or self._sampled) and rows <= ROWS_AT_MOST:
            request.spoken = every
            request.in_flight += 1
            self.emitted.append(Whole(request, request.packed or self._packed(request), request.hits))
            return
        mask = every & ~request.spoken
        head = unpacked(self._packed(request))
        if self._sampled:
            mask &= ~self._dropped(request, head)
        if mask:
            request.spoken |= mask
            self._emit(Emission(request, head, request.hits, mask))
        self.emitted.append(request)

    def _dropped(self, request: Request, head: Head) -> int:
        """All tasks of the rows that sampling drops."""
        tasks, said, n = self._tasks, request.hits | request.spoken, len(request)
        keep = self._sampler.probabilities(head, request.mean)
        drawn = draws(self._number, request.offset, request.index, n)
        dropped = 0
        for row in range(n):
            if drawn[row] >= keep[row] and not cells.of_row(said, row, tasks):
                dropped |= cells.every(1, tasks) << row * tasks
                self._counts.dropped += 1
        return dropped

    def _emit(self, emission: Emission) -> None:
        emission.request.in_flight += 1
        self.emitted.append(emission)

    def _packed(self, request: Request) -> bytes:
        packed = request.packed or self._store.log(request.request_id)
        if packed is None:
            raise MissingLog(
                f"request {request.request_id!r}: its features are not in the late store any more"
            )
        return packed

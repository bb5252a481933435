"""One request on its way through the join, and what is kept of it on disk once it has closed.

Rows are impressions, tasks are bits: a mapping from row to a bit set says which tasks. Knows no clock.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from schema.records import FeatureLog

Bits = Mapping[int, int]
NONE: Final[Bits] = {}


class State(msgspec.Struct, array_like=True):
    """What has been emitted of a request whose feature log lies at (offset, index).

    `hits`: the positive tasks of each row. `spoken`: the tasks that each row was emitted for, whatever the
    label; a row that is not in it was dropped by sampling, or is still due. `mean`: see `sampling`.
    """

    offset: int
    index: int
    event_time: int
    mean: float = 0.0
    hits: dict[int, int] = {}
    spoken: dict[int, int] = {}


class Request:
    """A request that is open, or that has closed and has blocks on their way to the broker."""

    __slots__ = (
        "action_offsets",
        "close_at",
        "event_time",
        "hits",
        "in_flight",
        "index",
        "items",
        "last_action",
        "log",
        "mean",
        "offset",
        "open",
        "owes_log",
        "packed",
        "request_id",
        "rows",
        "spoken",
    )

    def __init__(self, log: FeatureLog, offset: int, index: int, *, close_at: int, mean: float) -> None:
        self.request_id = log.request_id
        self.event_time = log.event_time
        self.items = log.items
        # once it has a place among thousands, its log is kept as bytes: a third of the memory
        self.log: FeatureLog | None = log
        self.packed: bytes | None = None
        self.offset = offset
        self.index = index
        self.close_at = close_at
        self.mean = mean
        self.rows: dict[int, tuple[int, ...]] | None = None
        self.hits: Bits = NONE
        self.spoken: Bits = NONE
        self.action_offsets: list[int] | None = None
        self.last_action = -1
        self.in_flight = 0
        self.open = True
        self.owes_log = True

    @classmethod
    def closed(cls, log: FeatureLog, state: State) -> Request:
        """The request as it was put away."""
        request = cls(log, state.offset, state.index, close_at=0, mean=state.mean)
        request.resume(state)
        request.open = request.owes_log = False
        return request

    def __len__(self) -> int:
        return len(self.items) // 8

    def resume(self, state: State) -> None:
        """Take over what was emitted of it before."""
        self.hits, self.spoken = state.hits or NONE, state.spoken or NONE

    def state(self) -> State:
        """What is to be put away."""
        return State(
            self.offset,
            self.index,
            self.event_time,
            self.mean,
            dict(self.hits),
            dict(self.spoken),
        )

    def rows_of(self, item_id: int) -> tuple[int, ...]:
        """The impressions of an item: one, none if it was not shown, several if it was shown again."""
        if not self.open:  # asked once or twice
            items = struct.unpack(f"<{len(self)}q", self.items)
            return tuple([row for row, item in enumerate(items) if item == item_id])
        if self.rows is None:
            rows: dict[int, tuple[int, ...]] = {}
            for row, item in enumerate(struct.unpack(f"<{len(self)}q", self.items)):
                rows[item] = (*rows[item], row) if item in rows else (row,)
            self.rows = rows
        return self.rows.get(item_id, ())

    def hit(self, fresh: Bits) -> None:
        """These tasks of these rows are positive."""
        self.hits = _joined(self.hits, fresh)

    def note(self, fresh: dict[int, int]) -> None:
        """As `hit`, where no emission refers to what was positive before: no copy."""
        if not self.hits:
            self.hits = fresh
            return
        hits = self.hits
        assert isinstance(hits, dict)  # noqa: S101 - it was one that came here
        for row, tasks in fresh.items():
            hits[row] = hits.get(row, 0) | tasks

    def speak(self, emitted: Bits) -> None:
        """These tasks of these rows are emitted."""
        self.spoken = _joined(self.spoken, emitted)

    def owe(self, action_offset: int) -> None:
        """The message of an action that is acknowledged with this request."""
        if self.action_offsets is None:
            self.action_offsets = []
        self.action_offsets.append(action_offset)


def _joined(bits: Bits, more: Bits) -> Bits:
    made = dict(bits)
    for row, tasks in more.items():
        made[row] = made.get(row, 0) | tasks
    return made

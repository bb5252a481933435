"""One request on its way through the join, and what is kept of it on disk once it has closed.

What was said of it are sets of (row, task) pairs, see `cells`. Knows no clock.
"""

from __future__ import annotations

import msgspec

from streaming import cells
from streaming.heads import Brief, Head


class State(msgspec.Struct, array_like=True, gc=False):
    """What has been emitted of a request whose feature log lies at (offset, index).

    `hits`: the positive pairs. `spoken`: the pairs emitted, whatever the label; a row that has none was
    dropped by sampling, or is still due. Both as `cells.to_bytes`. `mean`: see `sampling`. `log`: the feature
    log, packed; empty where that is kept by itself, or still to be read again.
    """

    offset: int
    index: int
    event_time: int
    mean: float = 0.0
    hits: bytes = b""
    spoken: bytes = b""
    log: bytes = b""

    def add(self, hits: int, spoken: int) -> None:
        """These pairs were emitted, too."""
        self.hits = cells.to_bytes(int.from_bytes(self.hits, "little") | hits)
        self.spoken = cells.to_bytes(int.from_bytes(self.spoken, "little") | spoken)


class Request:
    """A request that is open, or that has closed and has blocks on their way to the broker.

    `packed` is its feature log; None where that is on disk alone. `parked`: actions of it lie in the late
    store. `open`: labels may be emitted on time. `due`: the watermark is not past it; that of an earlier
    owner may have. `slot`: where it lies in `Gathering`, -1 for nowhere; as long as it does, that has its
    hits, its last action and whose messages it owes.
    """

    __slots__ = (
        "action_offsets",
        "due",
        "event_time",
        "hits",
        "in_flight",
        "index",
        "items",
        "last_action",
        "mean",
        "offset",
        "open",
        "owes_log",
        "packed",
        "parked",
        "request_id",
        "slot",
        "spoken",
    )

    def __init__(self, head: Head | Brief, packed: bytes | None, offset: int, index: int) -> None:
        self.request_id = head.request_id
        self.event_time = head.event_time
        self.items = head.items
        # bytes, not the decoded record: a third of the memory
        self.packed = packed
        self.offset = offset
        self.index = index
        self.mean = 0.0
        self.hits = 0
        self.spoken = 0
        self.action_offsets: list[int] | None = None
        self.last_action = -1
        self.slot = -1
        self.in_flight = 0
        self.open = True
        self.due = True
        self.owes_log = True
        self.parked = False

    @classmethod
    def closed(cls, head: Head, packed: bytes, state: State) -> Request:
        """The request as it was put away."""
        request = cls(head, packed, state.offset, state.index)
        request.resume(state)
        request.mean = state.mean
        request.open = request.due = request.owes_log = False
        return request

    def __len__(self) -> int:
        return len(self.items) // 8

    def resume(self, state: State) -> None:
        """Take over what was emitted of it before."""
        self.hits = int.from_bytes(state.hits, "little")
        self.spoken = int.from_bytes(state.spoken, "little")

    def state(self) -> State:
        """What is to be put away."""
        return State(
            self.offset,
            self.index,
            self.event_time,
            self.mean,
            cells.to_bytes(self.hits),
            cells.to_bytes(self.spoken),
            self.packed or b"",
        )

    def hear(self, hits: int, last_action: int, owed: list[int]) -> None:
        """What actions have made of it while it lay in a slot, and whose messages it owes."""
        self.hits, self.last_action = hits, last_action
        if owed:
            self.owe_all(owed)

    def owe(self, action_offset: int) -> None:
        """The message of an action that is acknowledged with this request."""
        self.owe_all([action_offset])

    def owe_all(self, action_offsets: list[int]) -> None:
        """As `owe` for each."""
        if self.action_offsets is None:
            self.action_offsets = action_offsets
        else:
            self.action_offsets.extend(action_offsets)

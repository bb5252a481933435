"""What the join hands out: rows to be emitted, and actions that no label came of. Values only."""

from __future__ import annotations

import msgspec

from streaming.heads import Head
from streaming.request import Request
from streaming.waiting import Arrival


class Rejected(msgspec.Struct, frozen=True):
    """An action that no label came of, and why."""

    arrival: Arrival
    reason: str
    detail: str


class Emission(msgspec.Struct, frozen=True, gc=False):
    """Rows of a request to be emitted: sets of (row, task) pairs, see `cells`.

    `labels`: what is positive, `mask`: the pairs spoken for, `retract`: those that were emitted as negatives.
    `late`: the offset of the action that made it after the close, -1 at or before it.
    """

    request: Request
    head: Head
    labels: int
    mask: int
    retract: int = 0
    late: int = -1

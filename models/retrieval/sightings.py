"""When items were last seen, and which have not been for too long. By row of the structure, in event time.

Event time is that of the steps: the latest that the middle request of a step has had, so that a clock that is
wrong somewhere moves nothing. A function of the steps alone.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

_LOOKS_A_LIFE: Final = 16
_MS: Final = 1000


class SavedSightings(msgspec.Struct, frozen=True, array_like=True):
    """Sightings in a checkpoint: `seen` <i8 (rows,), Unix ms."""

    seen: bytes = b""
    now: int = 0
    due: int = 0


class Sightings:
    """The time of each row's last sighting, Unix ms.

    Args:
        expiry_seconds: after how long without one a row has expired; None for never.
    """

    def __init__(self, expiry_seconds: float | None) -> None:
        self._expiry = None if expiry_seconds is None else math.ceil(expiry_seconds * _MS)
        self._seen: I64 = np.zeros(0, np.int64)
        self._now = self._due = 0

    def note(self, seen: I64, rows: int, at: int) -> None:
        """A step, whose middle request is of the time `at`, saw the rows `seen` (n,) among the first `rows`.

        Rows that nothing is known of count as seen, too.
        """
        self._now = max(self._now, at)
        more = rows - len(self._seen)
        if more > 0:
            self._seen = np.concatenate([self._seen, np.full(more, self._now)])
        self._seen[seen] = self._now

    def expired(self) -> I64:
        """The rows that have expired, whether they hold an item or not; at most a sixteenth of a life late.

        Looks at all rows so many times a life, and has none in between.
        """
        if self._expiry is None or self._now < self._due:
            return np.empty(0, np.int64)
        self._due = self._now + max(1, self._expiry // _LOOKS_A_LIFE)
        return np.flatnonzero(self._seen < self._now - self._expiry)

    def saved(self) -> SavedSightings:
        """All there is, for `restore`."""
        return SavedSightings(self._seen.astype("<i8").tobytes(), self._now, self._due)

    def restore(self, saved: SavedSightings) -> None:
        """Be what `saved` was."""
        self._seen = np.frombuffer(saved.seen, "<i8").astype(np.int64)
        self._now, self._due = saved.now, saved.due

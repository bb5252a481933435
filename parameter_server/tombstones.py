"""The bounded log of removed ids. Knows only ids and clocks; what it has dropped it says, by `trimmed`."""

from __future__ import annotations

from collections import deque

import numpy as np

from schema.records import U64


class TombstoneLog:
    """Which ids were removed at which clock, the newest `kept` of them.

    Args:
        kept: how many ids to remember, at least 1; whole removals are forgotten, the oldest first.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._removals: deque[tuple[int, U64]] = deque()
        self._count = 0
        self.trimmed = 0
        """The newest clock whose removals are forgotten: a delta since an older one needs a full snapshot."""

    def __len__(self) -> int:
        return self._count

    def add(self, ids: U64, clock: int) -> None:
        """Remember that `ids` (n,) were removed at `clock`, which is not below that of the last call."""
        if len(ids):
            self._removals.append((clock, ids))
            self._count += len(ids)
        while self._count > self._kept:
            self.trimmed, forgotten = self._removals.popleft()
            self._count -= len(forgotten)

    def since(self, clock: int) -> U64:
        """The ids removed after `clock`, which must not be below `trimmed`; repeats are possible."""
        newer = [ids for at, ids in self._removals if at > clock]
        return np.concatenate(newer) if newer else np.empty(0, np.uint64)

    def last(self, wanted: int) -> int | None:
        """The clock at which `wanted` was last removed, as far as that is remembered."""
        return next((at for at, ids in reversed(self._removals) if wanted in ids), None)

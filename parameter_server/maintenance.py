"""Keeping a table within its bounds: expiry by event time, and the memory budget. Plans only.

Knows neither clock nor deltas: it names rows to evict and to demote, a bounded number a call, and the table
does it. Time is event time, passed in. What is decided depends on the rows, not on where they lie, and what
is still to be done is in checkpoints: so a restored shard goes on as the one before it would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.store import RowStore
from schema.config import TableConfig
from schema.records import I64, U64

_MEBIBYTE: Final = 1 << 20
_LOW_WATER: Final = 0.9
_SLOTS: Final = 1 << 16
_SLOT_SHIFT: Final = np.uint64(48)
_WORD: Final = np.uint64(32)
_NEVER: Final = np.iinfo(np.int64).max
_PASSES_A_LIFE: Final = 16

Arrays = Mapping[str, NDArray[Any]]


class Expiry:
    """Finds rows whose last push is longer ago than their slot allows.

    One pass over all rows decides, every sixteenth of the shortest time to live, and is then done bit by
    bit; a row that is used meanwhile stays.

    Args:
        config: `ttl_seconds` of the table and of its slots.
    """

    def __init__(self, config: TableConfig) -> None:
        self._expired: U64 = np.empty(0, np.uint64)
        self._next_at = 0
        ttls = {s: c.ttl_seconds for s, c in config.slots.items() if c.ttl_seconds is not None}
        default = config.ttl_seconds
        self._ttl: NDArray[Any] | None = None
        if default is not None or ttls:
            self._ttl = np.full(_SLOTS, _NEVER if default is None else int(np.ceil(default)), np.int64)
            self._ttl[list(ttls)] = np.ceil(list(ttls.values()))
            self._every = max(1, int(self._ttl.min()) // _PASSES_A_LIFE)

    def ttl_seconds(self, slot: int) -> int | None:
        """How long a row of `slot` lives without a push; None: for ever."""
        if self._ttl is None or self._ttl[slot] == _NEVER:
            return None
        return int(self._ttl[slot])

    def due(self, store: RowStore, now_seconds: int, limit: int) -> U64:
        """At most `limit` ids that have expired, ascending."""
        if self._ttl is None:
            # what is left of a checkpoint from when rows expired stays
            return np.empty(0, np.uint64)
        if not len(self._expired) and now_seconds >= self._next_at:
            self._next_at = now_seconds + self._every
            self._expired = np.sort(self._old(store, store.live(), now_seconds, self._ttl))
        part, self._expired = self._expired[:limit], self._expired[limit:]
        rows = store.find(part)
        return self._old(store, rows[rows >= 0], now_seconds, self._ttl)

    @staticmethod
    def _old(store: RowStore, rows: I64, now_seconds: int, ttl: NDArray[Any]) -> U64:
        ids = store.ids[rows]
        age = now_seconds - store.records.last_use[rows].astype(np.int64)
        old: U64 = ids[age > ttl[ids >> _SLOT_SHIFT]]
        return old

    def saved(self) -> Arrays:
        """What is still to be done, and when the next pass is due."""
        return {"expired": self._expired, "expiry": np.array([self._next_at], np.int64)}

    def load(self, saved: Arrays) -> None:
        """Take up what `saved` returned."""
        self._expired, self._next_at = saved["expired"], int(saved["expiry"][0])


class Budget:
    """Which rows must shrink or go while a table is above its memory budget.

    From above the budget until a tenth below it: hysteresis, so that a table at its budget does not evict at
    every push. What goes is decided at once, by one pass over all rows, and then done bit by bit; a row that
    is used meanwhile stays.
    """

    def __init__(self, config: TableConfig) -> None:
        self._limit = np.inf if config.memory_mb is None else config.memory_mb * _MEBIBYTE
        self._demotions: U64 = np.empty(0, np.uint64)
        self._evictions: U64 = np.empty(0, np.uint64)
        self._planned_at = 0
        self.pressed = False
        """Whether the table is on its way down; rows do not grow meanwhile."""

    def exceeded(self, store: RowStore) -> bool:
        """Whether the table is above its budget itself: then it cannot wait for the next bit."""
        return store.bytes > self._limit

    def plan(self, store: RowStore, now_seconds: int) -> None:
        """Decide what must go, if anything must and nothing is left of the last decision."""
        low = self._limit * _LOW_WATER
        self.pressed = store.bytes > (low if self.pressed else self._limit)
        if not self.pressed:
            self._demotions = self._evictions = self._demotions[:0]
        elif not len(self._demotions) and not len(self._evictions):
            self._decide(store, now_seconds, store.bytes - low)

    def _decide(self, store: RowStore, now_seconds: int, excess: float) -> None:
        rows = store.live()
        last_use, uses = store.records.last_use, store.records.uses
        # a trainer that is behind may have come after one that is not: what is decided now was not used since
        self._planned_at = max(now_seconds, int(last_use[rows].max()))
        wide = rows[store.placement.classes(rows) > 0]
        if len(wide):
            most = int(excess / store.demotion_bytes(wide).min()) + 1
            keys = uses[wide].astype(np.uint64) << _WORD | last_use[wide]
            chosen = wide[_lowest(keys, store.ids[wide], most)]
            saving = np.cumsum(store.demotion_bytes(chosen))
            self._demotions = store.ids[chosen[: int(np.searchsorted(saving, excess)) + 1]]
        else:
            count = int(np.ceil(excess / (store.bytes / len(rows))))
            ids = store.ids[rows]
            self._evictions = ids[_lowest(last_use[rows], ids, count)]

    def demotions(self, store: RowStore, limit: int) -> I64:
        """At most `limit` rows that go down one size class, the least used first."""
        part, self._demotions = self._demotions[:limit], self._demotions[limit:]
        rows = self._unused(store, part)
        return rows[store.placement.classes(rows) > 0]

    def evictions(self, store: RowStore, limit: int) -> U64:
        """At most `limit` ids that go, the least recently used first."""
        part, self._evictions = self._evictions[:limit], self._evictions[limit:]
        return store.ids[self._unused(store, part)]

    def saved(self) -> Arrays:
        """What is still to be done, and when that was decided."""
        state = np.array([self.pressed, self._planned_at], np.int64)
        return {"demotions": self._demotions, "evictions": self._evictions, "budget": state}

    def load(self, saved: Arrays) -> None:
        """Take up what `saved` returned."""
        self._demotions, self._evictions = saved["demotions"], saved["evictions"]
        self.pressed, self._planned_at = bool(saved["budget"][0]), int(saved["budget"][1])

    def _unused(self, store: RowStore, ids: U64) -> I64:
        """The rows of `ids` that have not been used since the decision; all, where time stands still."""
        rows = store.find(ids)
        rows = rows[rows >= 0]
        return rows[store.records.last_use[rows] <= self._planned_at]


def _lowest(keys: NDArray[Any], ids: U64, count: int) -> I64:
    """Where the `count` lowest of `keys` (n,) are, in their order; by `ids` (n,) where keys are alike.

    Sorts those alone.
    """
    if count < len(keys):
        last = np.partition(keys, count - 1)[count - 1]
        below, alike = np.flatnonzero(keys < last), np.flatnonzero(keys == last)
        wanted = count - len(below)
        chosen = np.concatenate([below, alike[np.argpartition(ids[alike], wanted - 1)[:wanted]]])
    else:
        chosen = np.arange(len(keys))
    return chosen[np.lexsort((ids[chosen], keys[chosen]))]

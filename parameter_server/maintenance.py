"""Keeping a table within its bounds: expiry by event time, and the memory budget. Plans only.

Knows neither clock nor deltas: it names rows to evict and to demote, a bounded number a call, and the table
does it. Time is event time, passed in.
"""

from __future__ import annotations

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


class Expiry:
    """Finds rows whose last push is longer ago than their slot allows, going round and round.

    Args:
        config: `ttl_seconds` of the table and of its slots.
    """

    def __init__(self, config: TableConfig) -> None:
        self._cursor = 0
        ttls = {s: c.ttl_seconds for s, c in config.slots.items() if c.ttl_seconds is not None}
        default = config.ttl_seconds
        self._ttl: NDArray[Any] | None = None
        if default is not None or ttls:
            self._ttl = np.full(_SLOTS, _NEVER if default is None else int(np.ceil(default)), np.int64)
            self._ttl[list(ttls)] = np.ceil(list(ttls.values()))

    def ttl_seconds(self, slot: int) -> int | None:
        """How long a row of `slot` lives without a push; None: for ever."""
        if self._ttl is None or self._ttl[slot] == _NEVER:
            return None
        return int(self._ttl[slot])

    def due(self, store: RowStore, now_seconds: int, limit: int) -> U64:
        """The ids that have expired among the next `limit` rows."""
        if self._ttl is None or not store.used:
            return np.empty(0, np.uint64)
        rows = (self._cursor + np.arange(min(limit, store.used))) % store.used
        self._cursor = int(rows[-1]) + 1
        ids, records = store.ids[rows], store.records
        age = now_seconds - records.last_use[rows].astype(np.int64)
        expired: U64 = ids[(age > self._ttl[ids >> _SLOT_SHIFT]) & (records.versions[rows] > 0)]
        return expired


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
            chosen = _lowest(wide, uses[wide].astype(np.uint64) << _WORD | last_use[wide], most)
            saving = np.cumsum(store.demotion_bytes(chosen))
            self._demotions = store.ids[chosen[: int(np.searchsorted(saving, excess)) + 1]]
        else:
            count = int(np.ceil(excess / (store.bytes / len(rows))))
            self._evictions = store.ids[_lowest(rows, last_use[rows], count)]

    def demotions(self, store: RowStore, limit: int) -> I64:
        """At most `limit` rows that go down one size class, the least used first."""
        part, self._demotions = self._demotions[:limit], self._demotions[limit:]
        rows = self._unused(store, part)
        return rows[store.placement.classes(rows) > 0]

    def evictions(self, store: RowStore, limit: int) -> U64:
        """At most `limit` ids that go, the least recently used first."""
        part, self._evictions = self._evictions[:limit], self._evictions[limit:]
        return store.ids[self._unused(store, part)]

    def _unused(self, store: RowStore, ids: U64) -> I64:
        """The rows of `ids` that have not been used since the decision; all, where time stands still."""
        rows = store.find(ids)
        rows = rows[rows >= 0]
        return rows[store.records.last_use[rows] <= self._planned_at]


def _lowest(rows: I64, keys: NDArray[Any], count: int) -> I64:
    """The `count` of `rows` (n,) with the lowest `keys` (n,), in their order; without sorting the others."""
    chosen = np.argpartition(keys, count - 1)[:count] if count < len(rows) else np.arange(len(rows))
    return rows[chosen[np.argsort(keys[chosen], kind="stable")]]

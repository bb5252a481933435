"""Reads what changed in a shard since a clock, in parts, while pushes go on, for deltas and checkpoints.

Knows no network and no files. The parts, applied in order, lead exactly to the clock that the sweep ends at.

A pass copies rows without a lock, so it may copy a row that a push is just changing. Such a row's version is
then above the clock that the pass began at, and the next pass copies it again. Passes get shorter; the last,
of the few rows that the pushes of the one before it changed, holds the lock and so ends at one clock. While
a sweep is open no row may move to another place, or a pass would miss it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from parameter_server.errors import TrimmedError
from schema.records import I64, U64

Arrays = dict[str, NDArray[Any]]
"""Columns of some rows by name, equally long; "ids" and "versions" are among them."""

_MOST_PASSES: Final = 4
_FEW: Final = 4096


class Part(NamedTuple):
    """First, `removed` ids (m,) of `table` go; then the rows of `columns` replace those of their ids."""

    table: str
    removed: U64
    columns: Arrays


class SweptTable(Protocol):
    """What a sweep reads: `parameter_server.table.Table`."""

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`; may be called without the lock."""

    def found(self, ids: U64) -> I64:
        """The distinct rows of those of `ids` that have one."""

    def removed_since(self, clock: int) -> U64 | None:
        """The ids removed after `clock`; None where that is no longer known."""

    def copied(self, rows: I64, names: Sequence[str]) -> Arrays:
        """Copies of the columns `names`, ids and versions of `rows`; may be called without the lock."""


class RecentChanges:
    """Which ids the last few pushes changed, so that the end of a sweep need not scan for them.

    Args:
        kept: how many ids to remember; the memory is the same for any number of sweeps.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._pushes: deque[tuple[int, Mapping[str, U64]]] = deque()
        self._count = 0
        self._known_from = 0

    def add(self, clock: int, ids: Mapping[str, U64]) -> None:
        """A push that led to `clock` changed `ids` by table."""
        self._pushes.append((clock, ids))
        self._count += sum(map(len, ids.values()))
        while self._count > self._kept:
            self._known_from, dropped = self._pushes.popleft()
            self._count -= sum(map(len, dropped.values()))

    def forget(self, clock: int) -> None:
        """What changed up to `clock` is not known any more: not only pushes changed it."""
        self._pushes.clear()
        self._count, self._known_from = 0, clock

    def since(self, clock: int) -> dict[str, list[U64]] | None:
        """The ids changed after `clock` by table, with repeats; None where that is not known."""
        if clock < self._known_from:
            return None
        found: dict[str, list[U64]] = {}
        for at, ids in reversed(self._pushes):
            if at <= clock:
                break
            for table, changed in ids.items():
                found.setdefault(table, []).append(changed)
        return found


class Swept(NamedTuple):
    """What a sweep reads from. `clock` may be called only under `reading`."""

    tables: Mapping[str, SweptTable]
    recent: RecentChanges
    reading: Callable[[], AbstractContextManager[None]]
    clock: Callable[[], int]
    open: set[Sweep]
    """Those under way: no row may move while there is one."""


class Sweep:
    """One reading of all changes after a clock; iterate it once, to the end.

    Args:
        source: the shard's tables.
        since: the clock; None for all rows.
        names: which columns to copy, by table.
        rows_per_part: at most so many rows or removed ids a part, by table.
        finish: called under the lock at the end, with the final clock.

    Iterating raises TrimmedError where removals since `since`, or during the sweep, are forgotten already.
    """

    def __init__(
        self,
        source: Swept,
        since: int | None,
        names: Mapping[str, Sequence[str]],
        rows_per_part: Mapping[str, int],
        finish: Callable[[int], None],
    ) -> None:
        self._source = source
        self._since = since
        self._names = names
        self._rows_per_part = rows_per_part
        self._finish = finish

    def __iter__(self) -> Iterator[Part]:
        """The parts, in the order in which they are to be applied."""
        with self._source.reading():
            self._source.open.add(self)
        try:
            yield from self._parts()
        finally:
            # without the lock: a sweep that is given up may end anywhere, when it is collected
            self._source.open.discard(self)

    def _parts(self) -> Iterator[Part]:
        since = 0
        for number in range(_MOST_PASSES):
            first = number == 0
            with self._source.reading():
                now = self._source.clock()
                if first:
                    since = now if self._since is None else self._since
                if not (first and self._since is None) and self._few_since(since):
                    break
                removed = self._removed(since)
            yield from self._cut_removed(removed)
            scanned_from = 0 if first and self._since is None else since
            for name, table in self._source.tables.items():
                yield from self._pass(name, table, table.newer(scanned_from), now)
            since = now
        yield from self._last(since)

    def _few_since(self, clock: int) -> bool:
        """Whether so few rows have changed that no one minds if they are copied under the lock."""
        changed = self._source.recent.since(clock)
        if changed is None:
            return False
        return sum(len(ids) for parts in changed.values() for ids in parts) <= _FEW

    def _removed(self, since: int) -> dict[str, U64]:
        removed = {}
        for name, table in self._source.tables.items():
            ids = table.removed_since(since)
            if ids is None:
                raise TrimmedError(
                    f"table {name}: the removals since clock {since} are forgotten; "
                    "a higher parameter_server.tombstones_kept remembers more"
                )
            removed[name] = ids
        return removed

    def _cut_removed(self, removed: Mapping[str, U64]) -> Iterator[Part]:
        for name, ids in removed.items():
            size = self._rows_per_part[name]
            nothing = self._source.tables[name].copied(np.empty(0, np.int64), self._names[name])
            for start in range(0, len(ids), size):
                yield Part(name, ids[start : start + size], nothing)

    def _pass(self, name: str, table: SweptTable, rows: I64, now: int) -> Iterator[Part]:
        size = self._rows_per_part[name]
        for start in range(0, len(rows), size):
            part = _settled(table.copied(rows[start : start + size], self._names[name]), now)
            if len(part["ids"]):
                yield Part(name, part["ids"][:0], part)

    def _last(self, since: int) -> Iterator[Part]:
        with self._source.reading():
            removed = self._removed(since)
            recent = self._source.recent.since(since)
            copies = {}
            for name, table in self._source.tables.items():
                if recent is None:
                    rows = table.newer(since)
                else:
                    rows = table.found(np.concatenate([np.empty(0, np.uint64), *recent.get(name, [])]))
                copies[name] = table.copied(rows, self._names[name])
            self._finish(self._source.clock())
        yield from self._cut_removed(removed)
        for name, copy in copies.items():
            size = self._rows_per_part[name]
            for start in range(0, len(copy["ids"]), size):
                part = {column: values[start : start + size] for column, values in copy.items()}
                yield Part(name, part["ids"][:0], part)


def _settled(copy: Arrays, now: int) -> Arrays:
    """The rows of `copy` that nothing has changed since `now`; the others are the next pass's."""
    versions = copy["versions"]
    stays = (versions > 0) & (versions <= now)
    if not stays.all():
        copy = {name: values[stays] for name, values in copy.items()}
        # a row freed and taken again while it was copied may repeat an id; the next pass has it too
        _, first = np.unique(copy["ids"], return_index=True)
        copy = {name: values[first] for name, values in copy.items()}
    return copy

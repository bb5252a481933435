"""The rows that a serving replica holds: slim tables without optimizer state, kept equal to all shards.

Knows no network: it is handed deltas, and says where it stands. Readers never see half a round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from parameter_server import contents
from parameter_server.checks import checked_ids, distinct
from parameter_server.delta import Delta, verify
from parameter_server.errors import DeltaError, InvalidRequest
from parameter_server.locks import ReadWriteLock
from parameter_server.router import shard_of
from parameter_server.store import RowStore
from schema.config import ParameterServerConfig
from schema.records import F32, I64, U64

Lookup = Callable[[str, U64], F32]


class ReplicaTables:
    """One table for each configured, with the rows of every shard. Thread-safe.

    Args:
        config: the tables, and how many shards there are.
    """

    def __init__(self, config: ParameterServerConfig) -> None:
        self._tables = {table.name: RowStore(table, state=False) for table in config.tables}
        self._widths = {table.name: table.dim for table in config.tables}
        self._positions: list[tuple[int, int] | None] = [None] * len(config.shards)
        self._lock = ReadWriteLock()

    def position(self, shard: int) -> tuple[int, int] | None:
        """(epoch, clock) that the rows of `shard` are as of: what to ask the next delta since."""
        return self._positions[shard]

    def positions(self) -> tuple[tuple[int, int] | None, ...]:
        """The position of every shard, as of one moment."""
        with self._lock.reading():
            return tuple(self._positions)

    def apply(self, deltas: Sequence[Delta], commit: Callable[[], None] | None = None) -> None:
        """Bring in one round of deltas, at most one a shard; readers see all of it or nothing.

        Args:
            deltas: as the client returned them.
            commit: called while readers wait, to make visible what belongs to the same round.

        Raises:
            DeltaError: one is damaged, or does not start where the replica stands; nothing was changed.
        """
        if len({delta.shard for delta in deltas}) < len(deltas):
            raise DeltaError(f"deltas of shards {[d.shard for d in deltas]}; legal is one a shard")
        for delta in deltas:
            self._verify(delta)
        with self._lock.writing():
            for delta in deltas:
                self._check_start(delta)
            for delta in deltas:
                self._apply(delta)
            if commit is not None:
                commit()

    def _verify(self, delta: Delta) -> None:
        if not 0 <= delta.shard < len(self._positions):
            raise DeltaError(f"delta of shard {delta.shard}; legal is below {len(self._positions)}")
        verify(delta, self._widths)
        for chunk in delta.chunks:
            if len(distinct(chunk.ids)[0]) < len(chunk.ids):
                raise DeltaError(f"delta of shard {delta.shard}: chunk {chunk.sequence} has an id twice")
            for ids in (chunk.ids, chunk.removed):
                strangers = np.flatnonzero(shard_of(ids, len(self._positions)) != delta.shard)
                if len(strangers):
                    raise DeltaError(
                        f"delta of shard {delta.shard}: id {ids[strangers[0]]} is another shard's"
                    )

    def _check_start(self, delta: Delta) -> None:
        start = (delta.epoch, delta.from_clock)
        if not delta.full and self._positions[delta.shard] != start:
            raise DeltaError(
                f"delta of shard {delta.shard}: starts at (epoch, clock) {start}; "
                f"the replica stands at {self._positions[delta.shard]}"
            )

    def _apply(self, delta: Delta) -> None:
        if delta.full:
            self._drop_missing(delta)
        for chunk in delta.chunks:
            self._tables[chunk.table].remove(chunk.removed)
        for chunk in delta.chunks:
            if len(chunk.ids):
                # the version only marks a row as live here; clocks of different shards do not compare
                contents.upsert(self._tables[chunk.table], chunk.ids, chunk.vectors, 1)
        self._positions[delta.shard] = (delta.epoch, delta.to_clock)

    def _drop_missing(self, delta: Delta) -> None:
        for name, table in self._tables.items():
            held = table.ids[self._rows(table, delta.shard)]
            sent = [chunk.ids for chunk in delta.chunks if chunk.table == name]
            table.remove(np.setdiff1d(held, np.concatenate([held[:0], *sent])))

    def _rows(self, table: RowStore, shard: int) -> I64:
        rows = table.live()
        mine: I64 = rows[shard_of(table.ids[rows], len(self._positions)) == shard]
        return mine

    def pull(self, table: str, ids: U64) -> F32:
        """The vector of each id uint64 (n,), float32 (n, dim), as ParameterClient.pull returns it.

        Raises:
            InvalidRequest: an unknown table or malformed ids.
        """
        with self.reading() as lookup:
            return lookup(table, ids)

    @contextmanager
    def reading(self) -> Iterator[Lookup]:
        """Hold off rounds while several lookups see one state; yields `pull`. Not to be nested."""
        with self._lock.reading():
            yield self._lookup

    def _lookup(self, table: str, ids: U64) -> F32:
        return self._table(table).lookup(checked_ids(table, ids))

    def _table(self, name: str) -> RowStore:
        table = self._tables.get(name)
        if table is None:
            raise InvalidRequest(f"table: {name!r}; legal are {', '.join(self._tables)}")
        return table

    def digest(self, table: str, shard: int) -> int:
        """The digest of the rows of `shard`: that shard's own, if the replica equals it."""
        with self._lock.reading():
            chosen = self._table(table)
            return contents.digest(chosen, self._rows(chosen, shard))

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has."""
        with self._lock.reading():
            return {name: len(table) for name, table in self._tables.items()}

    def check_integrity(self) -> None:
        """Check every table; AssertionError if one is broken."""
        with self._lock.reading():
            for table in self._tables.values():
                table.check_integrity()

"""The rows that a serving replica holds: slim tables without optimizer state, kept equal to all shards.

Knows no network: it is handed deltas, and says where it stands. Readers never see half a round, and wait
for no round, only for a few rows of one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np

from parameter_server.checks import checked_ids, distinct
from parameter_server.delta import Chunk, Delta, verify
from parameter_server.errors import DeltaError, InvalidRequest
from parameter_server.locks import ReadWriteLock
from parameter_server.overlay import Overlay
from parameter_server.replica_table import ReplicaTable
from parameter_server.router import shard_of
from parameter_server.store import RowStore
from schema.config import ParameterServerConfig
from schema.records import F32, I64, U64

Lookup = Callable[[str, U64], F32]
_Turn = Callable[[Callable[[], None], Lookup], None]

_ROWS_A_STEP: Final = 1024


class ReplicaTables:
    """One table for each configured, with the rows of every shard. Thread-safe.

    Args:
        config: the tables, how replicas hold rows, and how many shards there are.
    """

    def __init__(self, config: ParameterServerConfig) -> None:
        self._tables = {table.name: ReplicaTable(table, config.replica_rows) for table in config.tables}
        self._widths = {name: table.width for name, table in self._tables.items()}
        self._positions: list[tuple[int, int] | None] = [None] * len(config.shards)
        self._lock = ReadWriteLock()
        self._one_round = threading.Lock()

    def position(self, shard: int) -> tuple[int, int] | None:
        """(epoch, clock) that the rows of `shard` are as of: what to ask the next delta since."""
        return self._positions[shard]

    def positions(self) -> tuple[tuple[int, int] | None, ...]:
        """The position of every shard, as of one moment."""
        with self._lock.reading():
            return tuple(self._positions)

    def apply(
        self,
        deltas: Sequence[Delta],
        commit: Callable[[], None] | None = None,
        prepare: Callable[[Lookup], None] | None = None,
    ) -> None:
        """Bring in one round of deltas, at most one a shard; readers see all of it or nothing.

        Args:
            deltas: as the client returned them.
            commit: called while readers wait, to make visible what belongs to the same round.
            prepare: called before that, while readers see the round before, with lookups that see this one;
                what it raises leaves everything as it was.

        Raises:
            DeltaError: one is damaged, or does not start where the replica stands; nothing was changed.
        """
        if len({delta.shard for delta in deltas}) < len(deltas):
            raise DeltaError(f"deltas of shards {[d.shard for d in deltas]}; legal is one a shard")
        with self._one_round:
            for delta in deltas:
                self._verify(delta)
                self._check_start(delta)
            chunks = {
                name: [chunk for delta in deltas for chunk in delta.chunks if chunk.table == name]
                for name in self._tables
            }
            full = [delta.shard for delta in deltas if delta.full]
            turn = partial(self._turn, deltas, commit, prepare)
            if full:
                self._replace(full, chunks, turn)
            else:
                self._overlay(chunks, turn)

    def _verify(self, delta: Delta) -> None:
        if not 0 <= delta.shard < len(self._positions):
            raise DeltaError(f"delta of shard {delta.shard}; legal is below {len(self._positions)}")
        verify(delta, self._widths)
        for chunk in delta.chunks:
            # an overlay notices by itself
            if delta.full and len(distinct(chunk.ids)[0]) < len(chunk.ids):
                raise DeltaError(f"delta of shard {delta.shard}: chunk {chunk.sequence} has an id twice")
            if len(self._positions) > 1:
                self._check_owner(delta.shard, chunk)

    def _check_owner(self, shard: int, chunk: Chunk) -> None:
        for ids in (chunk.ids, chunk.removed):
            strangers = np.flatnonzero(shard_of(ids, len(self._positions)) != shard)
            if len(strangers):
                raise DeltaError(f"delta of shard {shard}: id {ids[strangers[0]]} is another shard's")

    def _check_start(self, delta: Delta) -> None:
        start = (delta.epoch, delta.from_clock)
        if not delta.full and self._positions[delta.shard] != start:
            raise DeltaError(
                f"delta of shard {delta.shard}: starts at (epoch, clock) {start}; "
                f"the replica stands at {self._positions[delta.shard]}"
            )

    def _overlay(self, chunks: Mapping[str, Sequence[Chunk]], turn: _Turn) -> None:
        overlays = {name: Overlay(part) for name, part in chunks.items() if part}

        def show() -> None:
            for name, overlay in overlays.items():
                self._tables[name].overlay = overlay

        bases = {name: table.base for name, table in self._tables.items()}
        turn(show, self._ahead(bases, overlays))
        for name, overlay in overlays.items():
            for change in self._tables[name].merge(overlay, _ROWS_A_STEP):
                with self._lock.writing():
                    change()
            with self._lock.writing():
                self._tables[name].overlay = None

    def _replace(self, full: Sequence[int], chunks: Mapping[str, Sequence[Chunk]], turn: _Turn) -> None:
        bases = {
            name: table.replaced(self._kept(table.base, full), chunks[name])
            for name, table in self._tables.items()
        }

        def show() -> None:
            for name, base in bases.items():
                self._tables[name].base = base

        turn(show, self._ahead(bases, {}))

    def _ahead(self, bases: Mapping[str, RowStore], overlays: Mapping[str, Overlay]) -> Lookup:
        """Lookups that see the rows `bases` beneath `overlays`."""
        return lambda table, ids: self._table(table).ahead(ids, bases[table], overlays.get(table))

    def _turn(
        self,
        deltas: Sequence[Delta],
        commit: Callable[[], None] | None,
        prepare: Callable[[Lookup], None] | None,
        show: Callable[[], None],
        lookup: Lookup,
    ) -> None:
        """The moment at which a round becomes visible."""
        if prepare is not None:
            prepare(lookup)
        with self._lock.writing():
            show()
            for delta in deltas:
                self._positions[delta.shard] = (delta.epoch, delta.to_clock)
            if commit is not None:
                commit()

    def _kept(self, base: RowStore, full: Sequence[int]) -> I64:
        """The rows of shards other than those of `full`."""
        rows = base.live()
        kept: I64 = rows[~np.isin(shard_of(base.ids[rows], len(self._positions)), full)]
        return kept

    def _rows(self, base: RowStore, shard: int) -> I64:
        rows = base.live()
        if len(self._positions) == 1:
            return rows
        mine: I64 = rows[shard_of(base.ids[rows], len(self._positions)) == shard]
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

    def _table(self, name: str) -> ReplicaTable:
        table = self._tables.get(name)
        if table is None:
            raise InvalidRequest(f"table: {name!r}; legal are {', '.join(self._tables)}")
        return table

    def digest(self, table: str, shard: int) -> int:
        """The digest of the rows of `shard`: that shard's own, if the replica equals it."""
        with self._one_round:
            chosen = self._table(table)
            return chosen.digest(self._rows(chosen.base, shard))

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has; waits for no round, so one may be half brought in."""
        return {name: len(table.base) for name, table in self._tables.items()}

    def check_integrity(self) -> None:
        """Check every table; AssertionError if one is broken."""
        with self._one_round:
            for table in self._tables.values():
                table.base.check_integrity()

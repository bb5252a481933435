"""The parameters that the replica serves with: every shard's rows and the dense weights of one round.

A round replaces them whole; whoever ranks sees all of it or nothing. Knows neither shards nor requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.mmoe import MMoE
from parameter_server.delta import Delta
from parameter_server.replica import Lookup, ReplicaTables
from schema.records import U64, ModelVersion
from serving.structure import Learned, Served, Updates

_NOWHERE = (0, 0)


@dataclass(frozen=True, slots=True)
class Dense:
    """One published version of the dense weights, and the trainer's step that it was taken at.

    `learned` is retrieval's part, where there is one.
    """

    version: int
    step: int
    model: MMoE
    learned: Learned | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What ranking or retrieval needs, all of one round. `model` is None until dense weights have come."""

    version: ModelVersion
    model: MMoE | None
    embeddings: dict[str, Tensor]
    retrieval: Served | None = None


@dataclass(frozen=True, slots=True)
class TableDigest:
    """The digest of the rows of one shard in one table, and the (epoch, clock) that they are of."""

    shard: int
    table: str
    epoch: int
    clock: int
    digest: int


class Parameters:
    """The served parameters. Safe to use from any thread.

    Args:
        tables: the rows.
        shards: how many shards there are.
        table_names: of all tables.
        updates: makes what retrieval serves with; None where it is not configured.
    """

    def __init__(
        self,
        tables: ReplicaTables,
        shards: int,
        table_names: Sequence[str],
        updates: Updates | None = None,
    ) -> None:
        self._updates = updates
        self._tables = tables
        self._shards = range(shards)
        self._names = tuple(table_names)
        self._dense: Dense | None = None
        self._retrieval: Served | None = None

    @property
    def dense(self) -> Dense | None:
        """The dense weights served with, if any."""
        return self._dense

    @property
    def version(self) -> ModelVersion:
        """Which parameters are served; a shard without a snapshot is at (0, 0)."""
        return self.read({}).version

    @property
    def retrieval(self) -> Served | None:
        """What retrieval serves with, if anything."""
        return self._retrieval

    def replace(self, deltas: Sequence[Delta], dense: Dense | None) -> None:
        """Make a round visible: `deltas` of some shards, and the dense weights if there are newer ones.

        Raises:
            DeltaError: a delta is damaged or does not follow; all is as it was.
        """
        newest, served = dense or self._dense, self._retrieval

        def prepare(lookup: Lookup) -> None:
            nonlocal served
            served = None
            if newest is not None and newest.learned is not None and self._updates is not None:
                served = self._updates.served(newest.learned, lookup)

        def commit() -> None:
            self._dense, self._retrieval = newest, served

        self._tables.apply(deltas, commit, prepare if deltas or dense else None)

    def read(self, ids: Mapping[str, U64]) -> Reading:
        """The vectors of `ids`, by table, and the model of the same round."""
        with self._tables.reading() as lookup:
            dense, retrieval = self._dense, self._retrieval
            rows = {table: lookup(table, wanted) for table, wanted in ids.items()}
            shards = tuple(self._tables.position(shard) or _NOWHERE for shard in self._shards)
        embeddings = {table: torch.from_numpy(found) for table, found in rows.items()}
        version = ModelVersion(dense.version if dense else 0, shards)
        return Reading(version, dense.model if dense else None, embeddings, retrieval)

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has."""
        return self._tables.row_counts()

    def digests(self) -> list[TableDigest]:
        """The digest of every shard's part of every table."""
        return [self._digest(shard, name) for shard in self._shards for name in self._names]

    def _digest(self, shard: int, table: str) -> TableDigest:
        while True:
            before = self._tables.position(shard)
            digest = self._tables.digest(table, shard)
            if self._tables.position(shard) == before:
                return TableDigest(shard, table, *(before or _NOWHERE), digest)

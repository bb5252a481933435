"""One embedding table of a shard: rows that learn, are admitted, grow, and go; tombstones of those removed.

Knows no network and no lock. `prepare` checks a push without changing anything, `apply` cannot fail, so
that a push over several tables happens wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from parameter_server import contents, packing
from parameter_server.admission import Admission
from parameter_server.checks import checked_ids, checked_rows, distinct
from parameter_server.columns import Columns
from parameter_server.digests import digest
from parameter_server.errors import CheckpointError, InvalidRequest
from parameter_server.kernels import batches
from parameter_server.kernels import rows as kernels
from parameter_server.maintenance import Budget, Expiry
from parameter_server.store import RowStore, clipped_rows
from parameter_server.sweep import Arrays
from parameter_server.tombstones import TombstoneLog
from schema.config import ReplicaRows, TableConfig
from schema.records import F32, I64, U8, U64

_MILLIS: Final = 1000
_SLOT_SHIFT: Final = np.uint64(48)


@dataclass(frozen=True, slots=True)
class Gradients:
    """The checked gradients of one push to one table: ids (n,) are distinct, values (n, dim) are finite."""

    ids: U64
    values: F32


@dataclass(slots=True)
class Counters:
    """What has happened to a table since its start, in ids, except `refused`: pushes."""

    refused: int = 0
    not_admitted: int = 0
    grown: int = 0
    demoted: int = 0
    expired: int = 0
    evicted: int = 0


class Maintained(NamedTuple):
    """What one `maintain` did: the ids of rows that went, and how many rows became narrower."""

    evicted: U64
    demoted: int

    @property
    def changed(self) -> bool:
        """Whether replicas must hear of it: the clock that was passed in is used up."""
        return len(self.evicted) > 0 or self.demoted > 0


class RowState(NamedTuple):
    """The operator's view of one id. `row` is -1 and the rest empty for an id without a row.

    `sightings` counts pushes while it had none; `expires_at` is in milliseconds of event time, None: never.
    """

    sightings: int
    row: int
    width: int
    state_norm: float
    version: int
    last_use: int
    uses: int
    expires_at: int | None


class Table:
    """Rows by id with versions and optimizer state.

    Args:
        config: name, width, optimizer, seed and first capacity.
        tombstones_kept: how many removed ids are remembered for deltas.
    """

    def __init__(self, config: TableConfig, tombstones_kept: int) -> None:
        self.config = config
        self._rows = RowStore(config, state=True)
        self._admission = Admission(config.admission, config.seed)
        self._expiry = Expiry(config)
        self._budget = Budget(config)
        self._grow_at = np.array(config.grow_at, np.int64)
        self.tombstones = TombstoneLog(tombstones_kept)
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def bytes(self) -> int:
        """What the rows take, as `memory_mb` counts it."""
        return self._rows.bytes

    def pull(self, ids: NDArray[np.generic]) -> F32:
        """The vector of each id uint64 (n,), float32 (n, dim), zeros behind a narrow one. Creates nothing.

        Raises:
            InvalidRequest: `ids` has another dtype or shape.
        """
        return self._rows.lookup(checked_ids(self.config.name, ids))

    def prepare(self, ids: NDArray[np.generic], gradients: NDArray[np.generic]) -> Gradients:
        """Check a push, sum the gradients of equal ids, and clip the sums where all rows are as wide.

        Args:
            ids: uint64 (n,), repeats allowed.
            gradients: float32 (n, dim).

        Raises:
            InvalidRequest: a wrong dtype or shape, or a sum that is not finite; names the id.
        """
        name = self.config.name
        checked = checked_ids(name, ids)
        values = checked_rows(name, "gradients", gradients, len(checked), self.config.dim)
        firsts, groups = distinct(checked)
        if len(firsts) < len(checked):
            checked = checked[firsts]
            sums = np.zeros((len(firsts), self.config.dim), np.float32)
            batches.sum_groups(values, groups, sums)
            values = sums
        bad = kernels.first_not_finite(values)
        if bad >= 0:
            self.counters.refused += 1
            raise InvalidRequest(
                f"table {name}: gradients: id {checked[bad]} has {values[bad].tolist()}; "
                "legal is a finite mean square"
            )
        return Gradients(checked, self._clipped(checked, values))

    def _clipped(self, ids: U64, values: F32) -> F32:
        """Rows of several widths are clipped where their width is known, in `RowStore.update_rows`."""
        rules = self._rows.optimizers
        if self._rows.sized or all(rule.config.clip_norm is None for rule in rules.rules):
            return values
        clipped = values.copy()
        for rule, positions in rules.parts(ids):
            if rule.config.clip_norm is not None:
                clipped[positions] = clipped_rows(values[positions], rule.config.clip_norm)
        return clipped

    def apply(self, gradients: Gradients, clock: int, event_time: int) -> None:
        """Update the rows of a prepared push, creating those that are missing and admitted.

        Args:
            gradients: what `prepare` of this table returned.
            clock: the version that the rows get, above 0.
            event_time: in milliseconds; raises the rows' last use.
        """
        ids, values = gradients.ids, gradients.values
        second = _seconds(event_time)
        rows, missing = self._rows.update(ids, values, clock, second)
        if len(missing):
            admitted = missing[self._admission.admit(ids[missing])]
            self.counters.not_admitted += len(missing) - len(admitted)
            rows[admitted] = self._rows.create(ids[admitted], clock)
            self._rows.update_rows(rows[admitted], ids[admitted], values[admitted], clock, second)
        if self._rows.sized:
            self._use(rows[rows >= 0])

    def _use(self, rows: I64) -> None:
        """Count a push of each of `rows`, and widen those that have had enough of them."""
        self._rows.records.uses[rows] += np.uint32(1)
        if self._budget.pressed:
            return
        classes = self._rows.placement.classes(rows)
        earned = np.searchsorted(self._grow_at, self._rows.records.uses[rows], side="right")
        grown = np.flatnonzero(earned > classes)
        if len(grown):
            contents.resize_rows(self._rows, rows[grown], earned[grown])
            self.counters.grown += len(grown)

    def push(
        self, ids: NDArray[np.generic], gradients: NDArray[np.generic], clock: int, event_time: int
    ) -> None:
        """`prepare` and `apply` in one."""
        self.apply(self.prepare(ids, gradients), clock, event_time)

    def remove(self, ids: NDArray[np.generic], clock: int) -> int:
        """Free the rows of `ids` and leave tombstones of version `clock`; how many there were.

        Raises:
            InvalidRequest: `ids` has another dtype or shape.
        """
        return len(self._remove(checked_ids(self.config.name, ids), clock))

    def _remove(self, ids: U64, clock: int) -> U64:
        removed = self._rows.remove(ids)
        self.tombstones.add(removed, clock)
        return removed

    def maintain(self, now_event_time: int, clock: int, limit: int) -> Maintained:
        """A bounded piece of housekeeping: ageing, expiry, the memory budget, the index.

        Afterwards the table is not above its budget: where `limit` rows do not suffice, more must go.

        Args:
            now_event_time: the newest event time so far, in milliseconds.
            clock: the version of what changes, above that of any push; used up if `changed` says so.
            limit: how many rows each kind of work may look at or move.
        """
        now = now_event_time // _MILLIS
        self._admission.age(now_event_time)
        expired = self._remove(self._expiry.due(self._rows, now, limit), clock)
        demoted, evicted = self._keep_budget(_seconds(now_event_time), clock, limit)
        self.counters.expired += len(expired)
        self.counters.evicted += len(evicted)
        self._rows.advance_index()
        return Maintained(np.concatenate([expired, evicted]), demoted)

    def _keep_budget(self, now: int, clock: int, limit: int) -> tuple[int, U64]:
        """Demote and evict `limit` rows of what was decided; again, while the table is above its budget."""
        demoted, evicted = 0, []
        while True:
            self._budget.plan(self._rows, now)
            demoted += self._demote(self._budget.demotions(self._rows, limit), clock)
            evicted.append(self._remove(self._budget.evictions(self._rows, limit), clock))
            if not self._budget.exceeded(self._rows):
                return demoted, np.concatenate(evicted)

    def _demote(self, rows: I64, clock: int) -> int:
        """One size class down; a row must earn the next anew."""
        if len(rows):
            classes = self._rows.placement.classes(rows) - 1
            contents.resize_rows(self._rows, rows, classes)
            self._rows.records.uses[rows] = np.concatenate([[0], self._grow_at])[classes]
            self._rows.records.touch(rows, clock, 0)
            self.counters.demoted += len(rows)
        return len(rows)

    def pack(self, limit: int) -> None:
        """Move at most `limit` rows and give memory back, if mostly free. Not while a sweep is open."""
        self._rows.pack(limit)

    def newer(self, clock: int) -> I64:
        """The rows with a version above `clock`, all rows for clock 0; needs no lock while no row moves."""
        return self._rows.newer(clock)

    def found(self, ids: U64) -> I64:
        """The distinct rows of those of `ids` (n,) that have one."""
        rows = self._rows.find(ids)
        return np.unique(rows[rows >= 0])

    def removed_since(self, clock: int) -> U64 | None:
        """The ids removed after `clock`; None where that is no longer known."""
        return None if clock < self.tombstones.trimmed else self.tombstones.since(clock)

    def copied(self, rows: I64, names: Sequence[str]) -> Arrays:
        """Copies of ids, the columns `names` and versions of `rows`; needs no lock while no row moves.

        Versions are read last: a row that a push changes meanwhile shows it by its version.
        """
        order = dict.fromkeys(["ids", *names])
        order.pop("versions", None)
        return {name: contents.column(self._rows, name, rows) for name in [*order, "versions"]}

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of all columns: what a checkpoint has to keep."""
        return tuple(Columns.__slots__)

    def restore(self, removed: U64, saved: Arrays) -> None:
        """Drop the rows of `removed`, without tombstones, then take over those that `copied` copied.

        Raises:
            CheckpointError: they do not fit the table's configuration; names what.
        """
        self._check_saved(saved)
        ids = checked_ids(self.config.name, saved["ids"])
        self._rows.remove(checked_ids(self.config.name, removed))
        self._rows.remove(ids)
        contents.fill(self._rows, Columns(**{**saved, "ids": ids}))

    def _check_saved(self, saved: Arrays) -> None:
        where = f"table {self.config.name}"
        if set(saved) != set(self.column_names):
            raise CheckpointError(f"{where}: columns {list(saved)}; legal are {list(self.column_names)}")
        dim = saved["vectors"].shape[1]
        if dim != self.config.dim:
            raise CheckpointError(f"{where}: dim {dim} in the checkpoint; configured is {self.config.dim}")
        strange = np.setdiff1d(saved["widths"], self.config.classes)
        if len(strange):
            raise CheckpointError(
                f"{where}: rows of width {strange.tolist()} in the checkpoint; "
                f"configured are {list(self.config.classes)}"
            )

    def candidates(self) -> tuple[U64, U8]:
        """The ids that have no row yet, and how many pushes each has had: what else a checkpoint keeps."""
        return self._admission.saved()

    def load_candidates(self, ids: U64, counts: U8) -> None:
        """Take up what `candidates` returned."""
        self._admission.load(ids, counts)

    def upkeep(self) -> Arrays:
        """Where housekeeping stands: what further a checkpoint keeps, for the next piece to be the same."""
        ageing = np.array([self._admission.last_ageing], np.int64)
        return {**self._expiry.saved(), **self._budget.saved(), "ageing": ageing}

    def load_upkeep(self, saved: Arrays) -> None:
        """Take up what `upkeep` returned."""
        self._expiry.load(saved)
        self._budget.load(saved)
        self._admission.last_ageing = int(saved["ageing"][0])

    def why(self, wanted: int) -> RowState:
        """What there is to know of one id."""
        row = int(self._rows.find(np.array([wanted], np.uint64))[0])
        sightings = self._admission.count(wanted)
        if row < 0:
            return RowState(sightings, -1, 0, 0.0, 0, 0, 0, None)
        found = contents.taken(self._rows, np.array([row]))
        ttl = self._expiry.ttl_seconds(wanted >> int(_SLOT_SHIFT))
        last = int(found.last_use[0])
        return RowState(
            sightings,
            row,
            int(found.widths[0]),
            float(np.linalg.norm(found.state[0])),
            int(found.versions[0]),
            last,
            int(found.uses[0]),
            None if ttl is None else last + ttl * _MILLIS,
        )

    def digest(self, form: ReplicaRows) -> int:
        """The order-independent digest of all ids and vector bits as replicas hold them, in [0, 2**64)."""

        def seen(vectors: F32) -> F32:
            return packing.unpack(packing.pack(vectors, form), self.config.dim, form)

        return digest(self._rows, self._rows.live(), seen)

    def check_integrity(self) -> None:
        """Check that index, records and free rows agree; AssertionError if not."""
        self._rows.check_integrity()


def _seconds(event_time: int) -> int:
    """Whole seconds, rounded up, so that no row expires early."""
    return -(-event_time // _MILLIS)

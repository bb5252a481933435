"""Which items lie on which paths, versioned: a copy follows by deltas and can prove that it is equal.

Knows no network: where an item should lie is decided in `em` and `placement`.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.retrieval.delta import Digest, StructureDelta, StructureError, digest_of
from models.retrieval.inverted import InvertedIndex, build_index, count, path_sizes
from schema.config_check import PATHS_LIMIT

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

_NONE: Final = -1


class SavedStructure(msgspec.Struct, frozen=True, array_like=True):
    """A structure as a checkpoint keeps it: its rows and free rows too, so that what follows is the same.

    By row: `ids` <i8, `paths` <i4 (rows, J), `changed` <i8.
    """

    total_paths: int
    slots: int
    epoch: int
    version: int
    ids: bytes
    paths: bytes
    changed: bytes
    free: list[int]
    removed: list[tuple[int, int]]
    complete_since: int


class PathStructure:
    """Up to J paths of K^D for every item.

    An item has a row, which stays its own until it is removed; a new item takes the row freed last, or a new
    one. Every operation that changes something makes one new version, so that a run's structure is a function
    of its operations.

    Args:
        total_paths: K^D.
        slots: J, the paths an item can have.
        epoch: which life of the structure this is. Whoever goes back to an earlier version must take another
            epoch, since the versions that follow will mean something else.
        removed_kept: of how many removed items a delta can still tell; a copy further behind gets everything.

    Raises:
        ValueError: there are more paths than an index can hold.
    """

    def __init__(self, total_paths: int, slots: int, epoch: int = 0, removed_kept: int = 1_000_000) -> None:
        if not 1 <= total_paths <= PATHS_LIMIT:
            raise ValueError(
                f"total_paths: {total_paths}; legal is 1 to {PATHS_LIMIT} (nodes to the power of depth)"
            )
        self.total_paths, self.slots, self.epoch = total_paths, slots, epoch
        self.version = 0
        self._removed_kept = removed_kept
        self._clear()

    def _clear(self) -> None:
        self._row_of: dict[int, int] = {}
        self._free: list[int] = []
        self._ids: I64 = np.full(16, _NONE, np.int64)
        self._paths: I32 = np.full((16, self.slots), _NONE, np.int32)
        self._changed: I64 = np.zeros(16, np.int64)
        self._sizes: I64 = np.zeros(self.total_paths, np.int64)
        self._used = 0
        self._removed: dict[int, int] = {}
        self._complete_since = 0
        self._index: InvertedIndex | None = None

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, item: int) -> bool:
        return item in self._row_of

    def remembers(self, item: int) -> bool:
        """Whether `item` is here, or was, and a delta can still tell that it is gone."""
        return item in self._row_of or item in self._removed

    @property
    def rows(self) -> int:
        """Every row is below this."""
        return self._used

    def item_ids(self) -> I64:
        """The item of every row, i64 (rows,); -1 where there is none."""
        return self._ids[: self._used].copy()

    def assignments(self) -> I32:
        """The paths of every row, i32 (rows, J); -1 for none."""
        return self._paths[: self._used].copy()

    def paths_at(self, rows: I64) -> I32:
        """The paths (n, J) of the items at `rows` (n,)."""
        return self._paths[rows]

    def items_at(self, rows: I64) -> I64:
        """The items at `rows` (n,), -1 where there is none."""
        return self._ids[rows]

    def rows_of(self, items: I64) -> I64:
        """The row of each item, -1 for one that is not here."""
        return np.fromiter((self._row_of.get(i, _NONE) for i in items.tolist()), np.int64, len(items))

    def assign(self, items: I64, paths: I32) -> int:
        """Put distinct `items` (n,), new or not, on `paths` (n, J), -1 for none; how many changed.

        Raises:
            ValueError: an item is negative or comes twice, or a path is not one, or comes twice for an item.
        """
        items, paths = np.asarray(items, np.int64), np.asarray(paths, np.int32)
        self._check(items, paths)
        rows = self.rows_of(items)
        new = rows < 0
        rows[new] = [self._take_row(i) for i in items[new].tolist()]
        moved = new | (self._paths[rows] != paths).any(axis=1)
        if moved.any():
            count(self._paths[rows[moved]], -1, self._sizes)
            count(paths[moved], 1, self._sizes)
            self._paths[rows[moved]] = paths[moved]
            self._step(rows[moved])
        return int(moved.sum())

    def remove(self, items: I64) -> int:
        """Take `items` off the structure; how many there were."""
        gone = [i for i in dict.fromkeys(items.tolist()) if i in self._row_of]
        if gone:
            self._step(np.empty(0, np.int64))
        rows = np.array([self._row_of.pop(item) for item in gone], np.int64)
        count(self._paths[rows], -1, self._sizes)
        self._ids[rows], self._paths[rows], self._changed[rows] = _NONE, _NONE, 0
        self._free += rows.tolist()
        self._removed |= dict.fromkeys(gone, self.version)
        while len(self._removed) > self._removed_kept:
            self._complete_since = self._removed.pop(next(iter(self._removed)))
        return len(gone)

    def sizes(self) -> I64:
        """How many items lie on each path, i64 (paths,), read-only; kept up as the structure changes."""
        view = self._sizes.view()
        view.flags.writeable = False
        return view

    def digest(self) -> Digest:
        """Of all items with their paths."""
        here = self._ids[: self._used] >= 0
        return digest_of(self._ids[: self._used][here], self._paths[: self._used][here])

    def index(self) -> InvertedIndex:
        """The inverted index at this version; built on the first call after a change."""
        if self._index is None:
            self._index = build_index(self._paths[: self._used], self.total_paths)
        return self._index

    def changes_since(self, version: int, epoch: int) -> StructureDelta:
        """What a copy at `version` of `epoch` lacks; all of it if that is another life, or too far behind."""
        whole = epoch != self.epoch or not self._complete_since <= version <= self.version
        since = 0 if whole else version
        rows = np.flatnonzero(self._changed[: self._used] > since)
        removed = [i for i, at in self._removed.items() if at > since] if since else []
        return StructureDelta(
            self.epoch,
            since,
            self.version,
            self.slots,
            self.total_paths,
            self._ids[rows].astype("<i8").tobytes(),
            self._paths[rows].astype("<i4").tobytes(),
            np.array(removed, "<i8").tobytes(),
            self.digest(),
        )

    def apply(self, delta: StructureDelta) -> None:
        """Follow `delta`, to be at its version of its epoch.

        Raises:
            StructureError: it does not continue this structure, which is then as it was, or the outcome does
                not have the delta's digest, and everything has to be fetched anew.
        """
        if (delta.total_paths, delta.slots) != (self.total_paths, self.slots):
            raise StructureError(
                f"delta: {delta.slots} of {delta.total_paths} paths an item; "
                f"legal is {self.slots} of {self.total_paths}"
            )
        here = (self.epoch, self.version)
        if delta.since and here != (delta.epoch, delta.since):
            raise StructureError(
                f"delta: since version {delta.since} of epoch {delta.epoch}; legal is {here}"
            )
        if not delta.since:
            self._clear()
        self.epoch = delta.epoch
        self.remove(delta.removed_ids())
        self.assign(delta.item_ids(), delta.path_codes())
        self._renumber(delta)
        if self.digest() != delta.digest:
            self.version, self._complete_since = 0, 0
            raise StructureError(f"delta: gives digest {self.digest()}; legal is {delta.digest}")

    def saved(self) -> SavedStructure:
        """All there is, for `restore`."""
        return SavedStructure(
            self.total_paths,
            self.slots,
            self.epoch,
            self.version,
            self._ids[: self._used].astype("<i8").tobytes(),
            self._paths[: self._used].astype("<i4").tobytes(),
            self._changed[: self._used].astype("<i8").tobytes(),
            self._free.copy(),
            list(self._removed.items()),
            self._complete_since,
        )

    def restore(self, saved: SavedStructure) -> None:
        """Be what `saved` was; `epoch` too, which whoever goes back on purpose then raises.

        Raises:
            StructureError: it has another number of paths.
        """
        if (saved.total_paths, saved.slots) != (self.total_paths, self.slots):
            raise StructureError(
                f"saved: {saved.slots} of {saved.total_paths} paths; "
                f"legal is {self.slots} of {self.total_paths}"
            )
        self._clear()
        self.epoch, self.version = saved.epoch, saved.version
        self._ids = np.frombuffer(saved.ids, "<i8").astype(np.int64)
        self._paths = np.frombuffer(saved.paths, "<i4").reshape(-1, self.slots).astype(np.int32)
        self._changed = np.frombuffer(saved.changed, "<i8").astype(np.int64)
        self._used, self._sizes = len(self._ids), path_sizes(self._paths, self.total_paths)
        self._row_of = {i: row for row, i in enumerate(self._ids.tolist()) if i >= 0}
        self._free = list(saved.free)
        self._removed = dict(saved.removed)
        self._complete_since = saved.complete_since

    def _renumber(self, delta: StructureDelta) -> None:
        """A copy does not know when between two versions something happened; it takes the later one."""
        rows = self.rows_of(delta.item_ids())
        self._changed[rows] = delta.version
        for item in delta.removed_ids().tolist():
            self._removed[item] = delta.version
        self.version = delta.version
        if not delta.since:
            self._complete_since = delta.version

    def _check(self, items: I64, paths: I32) -> None:
        if paths.shape != (len(items), self.slots):
            raise ValueError(f"paths: shape {paths.shape}; legal is {(len(items), self.slots)}")
        if len(items) and (items.min() < 0 or len(np.unique(items)) != len(items)):
            raise ValueError(f"items: {items[:5].tolist()}…; legal are distinct items of 0 or more")
        if paths.size and not (paths.min() >= _NONE and paths.max() < self.total_paths):
            raise ValueError(f"paths: {paths.min()} to {paths.max()}; legal is -1 to {self.total_paths - 1}")
        ordered = np.sort(paths, axis=1)
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
        if twice.any():
            raise ValueError(f"paths: {paths[twice][0].tolist()}; legal are distinct paths of an item")

    def _take_row(self, item: int) -> int:
        if self._free:
            row = self._free.pop()
        else:
            row = self._used
            self._used += 1
            if row == len(self._ids):
                self._grow()
        self._row_of[item], self._ids[row] = row, item
        self._removed.pop(item, None)
        return row

    def _grow(self) -> None:
        more = max(len(self._ids), 16)
        self._ids = np.concatenate([self._ids, np.full(more, _NONE, np.int64)])
        self._paths = np.concatenate([self._paths, np.full((more, self.slots), _NONE, np.int32)])
        self._changed = np.concatenate([self._changed, np.zeros(more, np.int64)])

    def _step(self, rows: I64) -> None:
        self.version += 1
        self._changed[rows] = self.version
        self._index = None

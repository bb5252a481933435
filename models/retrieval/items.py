"""What items are made of: the feature ids whose rows add up to an item's vector and bias.

A row of the retrieval table is [vector; bias]. An item's is the sum of the rows of its own id and of what is
known of it (author, tag, …), so that one without a single engagement is already near those that are alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.retrieval.changes import Changes, patched
from schema.records import F32, U64

I64 = NDArray[np.int64]

WIDTH: Final = 8
"""An item's feature ids beyond so many do not count."""

_CHUNK: Final = 65_536
_ROW_BYTES: Final = 8 * WIDTH


def packed_ids(columns: Iterable[tuple[U64, I64]], rows: int) -> U64:
    """The feature ids u64 (rows, WIDTH) of `rows` items, 0 where one has fewer.

    `columns` are slots in order: all ids, row after row, and how many each row has (rows,).
    """
    values, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for ids, lengths in columns:
        values.append(ids)
        owners.append(np.repeat(np.arange(rows), lengths))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    flat, owner = np.concatenate(values)[order], owner[order]
    counts = np.bincount(owner, minlength=rows)
    at = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    packed = np.zeros((rows, WIDTH), np.uint64)
    kept = at < WIDTH
    packed[owner[kept], at[kept]] = flat[kept]
    return packed


def packed_row(slots: Iterable[bytes]) -> list[int]:
    """As `packed_ids`, of one item; `slots` are the ids <u8 (n,) of each, in order."""
    ids: list[int] = np.frombuffer(b"".join(slots), "<u8")[:WIDTH].tolist()
    return ids + [0] * (WIDTH - len(ids))


@dataclass(frozen=True, slots=True)
class Parts:
    """Items as sums of rows: `ids` u64 (u,) ascending, `places` i64 (n, WIDTH) among them, u for none."""

    ids: U64
    places: I64

    @classmethod
    def of(cls, packed: U64) -> Parts:
        """Of items with feature ids `packed` (n, WIDTH)."""
        ids = np.unique(packed)
        if len(ids) and not ids[0]:
            ids = ids[1:]
        places = np.where(packed > 0, np.searchsorted(ids, packed), len(ids))
        return cls(ids, places)

    def sums(self, rows: F32) -> F32:
        """The items' [vector; bias] f32 (n, d + 1), of the table's `rows` (u, d + 1) for `ids`."""
        padded = np.concatenate([rows, np.zeros((1, rows.shape[1]), np.float32)])
        summed = np.empty((len(self.places), rows.shape[1]), np.float32)
        for start in range(0, len(summed), _CHUNK):
            part = self.places[start : start + _CHUNK]
            padded.take(part, axis=0).sum(axis=1, out=summed[start : start + _CHUNK])
        return summed


class SavedContents(msgspec.Struct, frozen=True, array_like=True):
    """Contents in a checkpoint: <u8 (n, WIDTH), of all rows.

    Or of the rows `only` <i8 (n,), ascending, of `rows`, which changed since another checkpoint.
    """

    ids: bytes
    only: bytes | None = None
    rows: int = 0


def whole_contents(saved: Sequence[SavedContents]) -> SavedContents:
    """The last of `saved`, of all rows: the first is, each later one has what changed since the one before.

    Raises:
        ValueError: they do not go together.
    """
    last = saved[-1]
    parts = [(None if s.only is None else np.frombuffer(s.only, "<i8"), s.ids) for s in saved]
    return last if last.only is None else SavedContents(patched(parts, last.rows, bytes(_ROW_BYTES)))


class Contents:
    """The feature ids of items, by row of the structure."""

    def __init__(self) -> None:
        self._ids: U64 = np.zeros((0, WIDTH), np.uint64)
        self.changes = Changes()
        """Of the rows; those that were never touched have no ids."""

    def put(self, rows: I64, ids: U64) -> None:
        """The items at `rows` (n,) have `ids` (n, WIDTH)."""
        if len(rows) and (most := int(rows.max()) + 1) > len(self._ids):
            grown = np.zeros((max(most, 2 * len(self._ids)), WIDTH), np.uint64)
            grown[: len(self._ids)] = self._ids
            self._ids = grown
        self._ids[rows] = ids
        self.changes.touch(rows)

    def of(self, rows: I64) -> U64:
        """The feature ids (n, WIDTH) of the items at `rows`, which have been put."""
        return self._ids[rows]

    def saved(self, since: int | None = None) -> SavedContents:
        """All of it, for `restore`; only what changed since the mark `since`, if given."""
        if since is None:
            return SavedContents(self._ids.astype("<u8", copy=False).tobytes())
        only = self.changes.since(since)
        chosen = self._ids[only].astype("<u8", copy=False)
        return SavedContents(chosen.tobytes(), only.astype("<i8").tobytes(), len(self._ids))

    def restore(self, saved: SavedContents) -> None:
        """Be what `saved`, of all rows, was."""
        self.changes = Changes()
        self._ids = np.frombuffer(saved.ids, "<u8").reshape(-1, WIDTH).astype(np.uint64)

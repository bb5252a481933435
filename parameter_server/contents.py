"""Taking rows out of a store as values, and putting them back: what checkpoints and deltas are made of."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.kernels import rows as kernels
from parameter_server.store import RowStore
from schema.records import F32, I64, U64

_MILLIS: Final = 1000


def taken(store: RowStore, rows: I64) -> Columns:
    """A copy of `rows` (n,)."""
    records = store.records
    state = np.zeros((len(rows), store.optimizers.state_width(store.config.dim)), np.float32)
    for part in store.placement.parts(rows):
        state[part.positions, : part.state_rows.shape[1]] = part.state_rows[part.rows]
    return Columns(
        records.ids[rows],
        store.vectors(rows),
        records.versions[rows],
        state,
        records.last_use[rows].astype(np.int64) * _MILLIS,
        records.uses[rows] if store.sized else np.zeros(len(rows), np.uint32),
        store.widths(rows),
    )


def fill(store: RowStore, saved: Columns) -> None:
    """Take up what `taken` returned, as new rows with the versions that they had."""
    rows = store.create(saved.ids, 1, store.classes_of(saved.widths))
    set_vectors(store, rows, saved.vectors)
    for part in store.placement.parts(rows):
        part.state_rows[part.rows] = saved.state[part.positions, : part.state_rows.shape[1]]
    if store.sized:
        store.records.uses[rows] = saved.uses
    store.records.restore(rows, saved.versions, (saved.last_use // _MILLIS).astype(np.uint32))


def upsert(
    store: RowStore, ids: U64, vectors: F32, clock: int, widths: NDArray[np.uint16] | None = None
) -> None:
    """Set vectors (n, dim) and widths (n,), else dim, of distinct ids (n,), creating missing rows."""
    every = np.full(len(ids), store.config.dim, np.uint16) if widths is None else widths
    classes = store.classes_of(every)
    rows = store.find(ids)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        rows[missing] = store.create(ids[missing], clock, classes[missing])
    changed = np.flatnonzero(store.placement.classes(rows) != classes)
    if len(changed):
        store.placement.clear(rows[changed])
        store.placement.create(rows[changed], classes[changed])
    set_vectors(store, rows, vectors)
    store.records.touch(rows, clock, 0)


def set_vectors(store: RowStore, rows: I64, vectors: F32) -> None:
    """Overwrite the vectors of `rows` (n,) with `vectors` (n, dim), as far as each row is wide."""
    for part in store.placement.parts(rows):
        part.vectors[part.rows] = vectors[part.positions, : part.vectors.shape[1]]


def resize_rows(store: RowStore, rows: I64, classes: I64) -> None:
    """Move `rows` (n,) to other size classes (n,), with their vectors and state cut or extended.

    A new block is zero, its state fresh, so that what the row gives is the same as before.
    """
    saved = [(p, p.vectors[p.rows], p.state_rows[p.rows]) for p in store.placement.parts(rows)]
    store.placement.clear(rows)
    store.placement.create(rows, classes)
    ids = store.records.ids[rows]
    for old, vectors, state in saved:
        for new in store.placement.parts(rows[old.positions]):
            both = min(vectors.shape[1], new.vectors.shape[1])
            new.vectors[new.rows, :both] = vectors[new.positions, :both]
            for rule, chosen in store.optimizers.parts(ids[old.positions[new.positions]]):
                moved = rule.resized(state[new.positions[chosen]], vectors.shape[1], new.vectors.shape[1])
                new.state_rows[new.rows[chosen], : moved.shape[1]] = moved


def digest(store: RowStore, rows: I64) -> int:
    """An order-independent digest of ids, widths and vector bits of `rows`; in [0, 2**64)."""
    total = 0
    for part in store.placement.parts(rows):
        salt = part.vectors.shape[1] if store.sized else 0
        ids = store.records.ids[rows[part.positions]]
        total += int(kernels.digest(ids, part.vectors.view(np.uint32), part.rows, salt))
    return total % (1 << 64)

"""Taking rows out of a store as values, and putting them back: what checkpoints and deltas are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.columns import Columns
from parameter_server.store import RowStore
from schema.records import F32, I64, U64

_MILLIS: Final = 1000


def column(store: RowStore, name: str, rows: I64) -> NDArray[Any]:
    """A copy of what `Columns` has under `name`, of `rows` (n,); needs no lock while no row moves."""
    return _READ[name](store, rows)


def taken(store: RowStore, rows: I64) -> Columns:
    """A copy of `rows` (n,)."""
    return Columns(**{name: column(store, name, rows) for name in Columns.__slots__})


def _state(store: RowStore, rows: I64) -> F32:
    state = np.zeros((len(rows), state_width(store)), np.float32)
    for part in store.placement.parts(rows):
        state[part.positions, : part.state_rows.shape[1]] = part.state_rows[part.rows]
    return state


def state_width(store: RowStore) -> int:
    """How many values of state a row has in `Columns`."""
    return store.optimizers.state_width(store.config.dim)


def _uses(store: RowStore, rows: I64) -> NDArray[np.uint32]:
    return store.records.uses[rows] if store.sized else np.zeros(len(rows), np.uint32)


def _last_use(store: RowStore, rows: I64) -> I64:
    return store.records.last_use[rows].astype(np.int64) * _MILLIS


_READ: Final[dict[str, Callable[[RowStore, I64], NDArray[Any]]]] = {
    "ids": lambda store, rows: store.records.ids[rows],
    "vectors": RowStore.vectors,
    "versions": lambda store, rows: store.records.versions[rows],
    "state": _state,
    "last_use": _last_use,
    "uses": _uses,
    "widths": RowStore.widths,
}


def fill(store: RowStore, saved: Columns) -> None:
    """Take up what `taken` returned, as new rows with the versions that they had."""
    rows = store.create(saved.ids, 1, store.classes_of(saved.widths))
    set_vectors(store, rows, saved.vectors)
    for part in store.placement.parts(rows):
        # the widest state of any slot may have changed since; that of a row's own optimizer has not
        both = min(part.state_rows.shape[1], saved.state.shape[1])
        part.state_rows[part.rows, :both] = saved.state[part.positions, :both]
    if store.sized:
        store.records.uses[rows] = saved.uses
    store.records.restore(rows, saved.versions, (saved.last_use // _MILLIS).astype(np.uint32))


def upsert(store: RowStore, ids: U64, vectors: F32, clock: int) -> None:
    """Set vectors (n, dim) of distinct ids (n,) of a store of one width, creating missing rows."""
    rows = store.find(ids)
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        rows[missing] = store.create(ids[missing], clock)
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

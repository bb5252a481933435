"""One table of a replica: packed rows, and while a round is brought in, an overlay that hides what changes.

Knows neither shards nor deltas' checks, and holds no lock: `ReplicaTables` does. A round becomes visible by
one assignment, of its overlay; the rows beneath are then replaced bit by bit, which no reader can see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np

from parameter_server import contents, packing
from parameter_server.delta import Chunk
from parameter_server.digests import digest
from parameter_server.kernels import rows as kernels
from parameter_server.overlay import Overlay
from parameter_server.placement import Fixed
from parameter_server.store import RowStore
from schema.config import ReplicaRows, TableConfig
from schema.records import F32, I64, U64

_PRESENT: Final = 1
_SMALLEST: Final = 16


class ReplicaTable:
    """Rows of one table as `form` packs them, all of the full width: narrow ones with zeros behind.

    Args:
        config: the table.
        form: how rows lie in it.
    """

    def __init__(self, config: TableConfig, form: ReplicaRows) -> None:
        self.config = config
        self.form = form
        self.width = packing.packed_width(config.dim, form)
        self.base = self._store(config.capacity)
        self.overlay: Overlay | None = None

    def _store(self, capacity: int) -> RowStore:
        rows = max(capacity, _SMALLEST)
        config = msgspec.structs.replace(self.config, dim=self.width, widths=(), grow_at=(), capacity=rows)
        return RowStore(config, state=False)

    @property
    def _vectors(self) -> F32:
        """The packed rows of `base`, float32 (capacity, width)."""
        placement = self.base.placement
        assert isinstance(placement, Fixed), "a replica's rows have one width"  # noqa: S101
        return placement.vectors

    def lookup(self, ids: U64) -> F32:
        """The vector of each id (n,), shape (n, dim); that of an id without a row is its first vector."""
        return self.ahead(ids, self.base, self.overlay)

    def ahead(self, ids: U64, base: RowStore, overlay: Overlay | None) -> F32:
        """As `lookup`, as if the rows were `base` beneath `overlay`."""
        plain = self.form == "fp32" and len(self.config.classes) == 1
        vectors = base.lookup(ids) if plain else self._resolved(ids, base)
        if overlay is not None:
            changes = overlay.find(ids)
            hidden = np.flatnonzero(changes >= 0)
            if len(hidden):
                vectors[hidden] = self._overlaid(ids[hidden], overlay.origins[changes[hidden]], overlay)
        return vectors

    def _resolved(self, ids: U64, store: RowStore) -> F32:
        rows = store.find(ids)
        vectors = packing.unpack(store.vectors(rows), self.config.dim, self.form)
        absent = np.flatnonzero(rows < 0)
        self._first(ids, absent, vectors)
        return vectors

    def _overlaid(self, ids: U64, origins: I64, overlay: Overlay) -> F32:
        vectors = np.empty((len(ids), self.config.dim), np.float32)
        present = origins >= 0
        vectors[present] = packing.unpack(overlay.vectors[origins[present]], self.config.dim, self.form)
        self._first(ids, np.flatnonzero(~present), vectors)
        return vectors

    def _first(self, ids: U64, places: I64, out: F32) -> None:
        if len(places):
            kernels.first_vectors(ids[places], self.config.seed, self.config.init_scale, places, out)
            out[places, self.config.classes[0] :] = 0

    def merge(self, overlay: Overlay, rows_a_step: int) -> Iterator[Callable[[], None]]:
        """Bring `overlay`, which hides what happens, into the rows beneath.

        Writing over hidden rows needs no lock and is done at once. Adding and removing rows does: that is
        what the functions do which this yields.
        """
        rest = overlay.copy_into(self._vectors, self.base.find(overlay.ids))
        removals = overlay.origins[rest] < 0
        for where in (rest[removals], rest[~removals]):
            for start in range(0, len(where), rows_a_step):
                part = where[start : start + rows_a_step]
                yield partial(self._change, overlay.ids[part], overlay.origins[part], overlay)

    def _change(self, ids: U64, origins: I64, overlay: Overlay) -> None:
        if origins[0] < 0:
            self.base.remove(ids)
        else:
            contents.upsert(self.base, ids, overlay.vectors[origins], _PRESENT)

    def replaced(self, keep: I64, chunks: Sequence[Chunk]) -> RowStore:
        """New rows: those of `base` at `keep`, and then what `chunks` change."""
        store = self._store(max(self.config.capacity, len(keep) + sum(len(chunk.ids) for chunk in chunks)))
        if len(keep):
            contents.upsert(store, self.base.ids[keep], self.base.vectors(keep), _PRESENT)
        for chunk in chunks:
            store.remove(chunk.removed)
            if len(chunk.ids):
                contents.upsert(store, chunk.ids, chunk.vectors, _PRESENT)
        return store

    def digest(self, rows: I64) -> int:
        """The digest of the rows beneath at `rows`, unpacked."""
        return digest(self.base, rows, lambda packed: packing.unpack(packed, self.config.dim, self.form))

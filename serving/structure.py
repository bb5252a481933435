"""The first stage, as it is served: structure, weights and item vectors of one round, and how these come.

`Served` is immutable, and swapped whole with the rows and the ranker of its round. Knows no request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from prometheus_client import Counter, Gauge

from models.dense import load_payload
from models.retrieval.inverted import InvertedIndex
from models.retrieval.items import WIDTH, Parts, packed_row
from models.retrieval.model import DeepRetrieval
from models.retrieval.postings import Postings, Reranker
from models.retrieval.shipping import Follower, decode_shipment
from models.retrieval.user import TowerWeights
from models.retrieval.weights import BeamWeights
from parameter_server.replica import Lookup
from schema.config import Config, RetrievalConfig
from schema.features import Encoded
from schema.ids import VALUE_LIMIT
from schema.records import F32, I64, U64

_ITEMS: Final = Gauge("headwater_retrieval_items", "Items on the structure served.")
_VERSION: Final = Gauge("headwater_retrieval_structure_version", "The version of the structure served.")
_NOBODY: Final = -2
_SNAPSHOTS: Final = Counter("headwater_retrieval_snapshots", "Times that the whole structure was fetched.")


@dataclass(frozen=True, slots=True)
class View:
    """A structure at one version: the item of every row, i64 (rows,), -1 for none; rows in order of item."""

    epoch: int
    version: int
    items: I64
    order: I64
    index: InvertedIndex

    def rows_of(self, items: I64) -> I64:
        """The row of each of `items` (n,), without those that are not here."""
        if not len(self.items):
            return np.empty(0, np.int64)
        at = np.searchsorted(self.items, items, sorter=self.order)
        rows = self.order[np.minimum(at, len(self.order) - 1)]
        found: I64 = rows[self.items[rows] == items]
        return found


@dataclass(frozen=True, slots=True)
class Learned:
    """What one published version holds: a structure, and the weights of users' vectors and of its paths."""

    view: View
    tower: TowerWeights
    beam: BeamWeights


@dataclass(frozen=True, slots=True)
class Served:
    """All that retrieval serves with: a version, and the vectors and biases of its items by one round."""

    learned: Learned
    postings: Postings

    @property
    def reranker(self) -> Reranker:
        """The vectors and biases by row."""
        return self.postings.reranker

    def user(self, history: Sequence[int], own: F32 | None) -> F32:
        """The vector f32 (1, dim) of a user with this history; `own` f32 (dim,) where it is configured."""
        # the trainer knows histories by 48 bits
        rows = self.learned.view.rows_of(np.array([i for i in history if i < VALUE_LIMIT], np.int64))
        mine = None if own is None else own[None]
        return self.learned.tower.users(self.reranker.vectors[rows], np.zeros(1, np.int64), mine)


class Updates:
    """Follows what the trainer publishes, and makes what is served of it. For the synchronising thread.

    Args:
        config: the whole configuration.
        retrieval: its section.
        encode: what is known of an item.
    """

    def __init__(self, config: Config, retrieval: RetrievalConfig, encode: Callable[[int], Encoded]) -> None:
        self._table = retrieval.table
        dim = next(t.dim for t in config.parameter_server.tables if t.name == retrieval.table) - 1
        self._module = DeepRetrieval(retrieval, dim)
        self._follower = Follower(retrieval.nodes**retrieval.depth, retrieval.paths)
        self._view: View | None = None
        self._encode = encode
        self._items: I64 = np.empty(0, np.int64)
        self._ids: U64 = np.zeros((0, WIDTH), np.uint64)
        self._parts = Parts.of(self._ids)
        self._lock = threading.Lock()
        self._noted: set[int] = set()

    def note(self, item: int) -> None:
        """Something else is known of `item` now. From any thread."""
        with self._lock:
            self._noted.add(item)

    def forget(self) -> None:
        """Fetch everything the next time: who publishes may have gone back."""
        self._follower.forget()

    def follow(self, payload: bytes, snapshot: Callable[[], bytes]) -> Learned:
        """The version in `payload`; `snapshot` fetches the newest whole structure where it is needed.

        Raises:
            StructureError: the structure is damaged, or does not follow; the next one begins with a snapshot.
            PayloadError: the weights are damaged, or another model's.
        """
        shipment = decode_shipment(payload)
        load_payload(self._module, shipment.weights)
        before = self._follower.snapshots
        self._follower.follow(shipment, snapshot)
        if self._follower.snapshots > before:
            _SNAPSHOTS.inc(self._follower.snapshots - before)
            # a version that was seen may mean something else now
            self._view = None
        return Learned(self._viewed(), self._module.tower.export(), self._module.export())

    def served(self, learned: Learned, lookup: Lookup) -> Served:
        """What to serve of `learned` with the rows that `lookup` gives."""
        view = learned.view
        self._encode_changed(view.items)
        sums = self._parts.sums(lookup(self._table, self._parts.ids))
        vectors, bias = np.ascontiguousarray(sums[:, :-1]), np.ascontiguousarray(sums[:, -1])
        _ITEMS.set(len(view.items))
        _VERSION.set(view.version)
        return Served(learned, Postings.of(view.index, Reranker(vectors, bias)))

    def _viewed(self) -> View:
        """The structure as it is now, in a form that stays so."""
        structure = self._follower.structure
        here = (structure.epoch, structure.version)
        if self._view is None or here != (self._view.epoch, self._view.version):
            items = structure.item_ids()
            self._view = View(*here, items, np.argsort(items, kind="stable"), structure.index())
        return self._view

    def _encode_changed(self, items: I64) -> None:
        """Bring the items' feature ids up to date: of rows that hold another item, and of those noted."""
        with self._lock:
            noted, self._noted = self._noted, set()
        known = np.full(len(items), _NOBODY)
        common = min(len(items), len(self._items))
        known[:common] = self._items[:common]
        rows = np.flatnonzero((known != items) | np.isin(items, np.array(sorted(noted), np.int64)))
        if not len(rows) and len(items) == len(self._items):
            return
        ids = np.zeros((len(items), WIDTH), np.uint64)
        ids[:common] = self._ids[:common]
        for row in rows.tolist():
            ids[row] = packed_row(self._encode(int(items[row])).ids) if items[row] >= 0 else 0
        self._items, self._ids, self._parts = items, ids, Parts.of(ids)

"""Feature columns of many requests, made into one batch that a module can take.

Every distinct feature id of a batch is looked up once: `Batch.ids` lists them by table, and the slots hold
indices into that list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import kernels
from models.gather import dense, gather
from schema.config import FeaturesConfig, SlotConfig
from schema.records import F32, I64, POSITION_MISSING, U64, Features

_ONE_EACH: Final = {1}
_FIRST: Final = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class SlotIndex:
    """One slot's rows as indices into the distinct ids of its table.

    `index` i64 (total,); `offsets` i64 (rows,), where each row starts, or None where every row has one id.
    `target` names the item slot that attends to these ids, None where they are pooled alike for all items.
    """

    name: str
    table: str
    pool: str
    index: Tensor
    offsets: Tensor | None
    target: str | None = None

    @property
    def bags(self) -> int:
        """How many rows there are."""
        return len(self.index if self.offsets is None else self.offsets)

    def to(self, device: torch.device) -> SlotIndex:
        """The same on `device`."""
        offsets = None if self.offsets is None else self.offsets.to(device)
        return replace(self, index=self.index.to(device), offsets=offsets)


@dataclass(frozen=True, slots=True)
class Batch:
    """n rows of R requests. `ids` u64 (u,) by table, distinct.

    `context` slots have R rows, `items` slots n; `request_of_row` i64 (n,). `context_dense` f32 (R, c) and
    `item_dense` f32 (n, d). `positions` i64 (n,), POSITION_MISSING where unknown; `surfaces` i64 (R,).
    """

    ids: dict[str, U64]
    context: tuple[SlotIndex, ...]
    items: tuple[SlotIndex, ...]
    request_of_row: Tensor
    context_dense: Tensor
    item_dense: Tensor
    positions: Tensor
    surfaces: Tensor

    @property
    def rows(self) -> int:
        """The number of rows, n."""
        return len(self.request_of_row)

    def narrowed(self, rows: I64) -> Batch:
        """The batch of `rows` (k,) alone, in that order. `ids` stay: what was looked up for all serves it."""
        chosen = torch.from_numpy(rows)
        return Batch(
            self.ids,
            self.context,
            tuple(_narrowed(slot, rows, chosen) for slot in self.items),
            self.request_of_row[chosen],
            self.context_dense,
            self.item_dense[chosen],
            self.positions[chosen],
            self.surfaces,
        )

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on `device`."""
        if device.type == "cpu":
            return self
        return Batch(
            self.ids,
            tuple(slot.to(device) for slot in self.context),
            tuple(slot.to(device) for slot in self.items),
            self.request_of_row.to(device),
            self.context_dense.to(device),
            self.item_dense.to(device),
            self.positions.to(device),
            self.surfaces.to(device),
        )


class Shown(NamedTuple):
    """Where n rows of R requests were shown: positions i64 (n,), surfaces i64 (R,)."""

    positions: I64
    surfaces: I64

    @classmethod
    def nowhere(cls, requests: int, rows: int) -> Shown:
        """Nothing is known, as before serving."""
        return cls(np.full(rows, POSITION_MISSING, np.int64), np.zeros(requests, np.int64))


@dataclass(frozen=True, slots=True)
class Gathered:
    """What n rows of R requests look like, in columns.

    `ids` u64 (total,): of all slots in the collator's order, one behind the other; each of `ends` (S,) is
    where a slot's end. Of each slot `lengths` has how many each row has, i64 (rows,), or None for one each.
    `request_of_row` i64 (n,), `context_dense` f32 (R, c), `item_dense` f32 (n, d).
    """

    ids: U64
    ends: Sequence[int]
    lengths: Sequence[I64 | None]
    request_of_row: I64
    context_dense: F32
    item_dense: F32


class Collator:
    """Makes batches of the slots and dense values that the feature configuration names.

    Args:
        config: see above.
        places: where each of some ids is, from 0: ids of one place are listed side by side. None: all alike.
    """

    def __init__(self, config: FeaturesConfig, places: Callable[[U64], I64] | None = None) -> None:
        self._places = places
        self._context = [s for s in config.slots if not s.source.startswith("item.")]
        self._items = [s for s in config.slots if s.source.startswith("item.")]
        self._slots = [*self._context, *self._items]
        self._context_dense = sum(d.source.startswith("user.") for d in config.dense)
        self._item_dense = len(config.dense) - self._context_dense

    def collate(
        self, features: Sequence[Features], counts: Sequence[int] | I64, shown: Shown | None = None
    ) -> Batch:
        """The batch of requests `features`, the i-th with `counts[i]` rows; `shown` is where, if it is known.

        A slot that a request lacks gives its rows no id; one that the configuration lacks is left out.

        Raises:
            ValueError: the dense values are not as many as the configuration names.
        """
        each: list[int] = np.asarray(counts).tolist()
        ones, rows = [1] * len(each), sum(each)
        context, items = [f.context for f in features], [f.items for f in features]
        flat = [gather(slot, context, ones) for slot in self._context]
        flat += [gather(slot, items, each) for slot in self._items]
        gathered = Gathered(
            np.concatenate([ids for ids, _ in flat]),
            list(accumulate(len(ids) for ids, _ in flat)),
            [lengths for _, lengths in flat],
            np.repeat(np.arange(len(counts)), counts),
            dense("context_dense", [f.context_dense for f in features], len(counts), self._context_dense),
            dense("item_dense", [f.item_dense for f in features], rows, self._item_dense),
        )
        return self.assembled(gathered, shown)

    @property
    def numbers(self) -> list[int]:
        """Those of the slots in the order that `Gathered` has them in: context before items."""
        return [slot.slot for slot in self._slots]

    def assembled(self, gathered: Gathered, shown: Shown | None = None) -> Batch:
        """The batch of requests in columns; `shown` is where, if it is known."""
        ids, indices = self._distinct(gathered.ids, gathered.ends)
        slots = [
            _slot_index(slot, index, lengths)
            for slot, index, lengths in zip(self._slots, indices, gathered.lengths, strict=True)
        ]
        requests, rows = len(gathered.context_dense), len(gathered.request_of_row)
        positions, surfaces = shown or Shown.nowhere(requests, rows)
        return Batch(
            ids,
            tuple(slots[: len(self._context)]),
            tuple(slots[len(self._context) :]),
            torch.from_numpy(gathered.request_of_row),
            torch.from_numpy(gathered.context_dense),
            torch.from_numpy(gathered.item_dense),
            torch.from_numpy(positions),
            torch.from_numpy(surfaces),
        )

    def _distinct(self, flat: U64, ends: Sequence[int]) -> tuple[dict[str, U64], list[I64]]:
        """The distinct ids by table, and for each slot the index of its ids among them; see `Gathered`."""
        slots, ids = self._slots, dict[str, U64]()
        indices: list[I64] = [np.empty(0, np.int64)] * len(slots)
        values = [flat[start:end] for start, end in pairwise([0, *ends])]
        tables = dict.fromkeys(s.table for s in slots)
        for table in tables:
            mine = [i for i, s in enumerate(slots) if s.table == table]
            own = flat if len(tables) == 1 else np.concatenate([values[i] for i in mine])
            ids[table], inverse = self._numbered(own)
            end = 0
            for i in mine:
                start, end = end, end + len(values[i])
                indices[i] = inverse[start:end]
        return ids, indices

    def _numbered(self, values: U64) -> tuple[U64, I64]:
        """The distinct values, by place and then as they first occur, and which each is."""
        index, found = np.empty(len(values), np.int64), np.empty(len(values), np.uint64)
        found = found[: kernels.distinct(values, index, found)]
        if self._places is None:
            return found, index
        arranged = np.empty_like(found)
        kernels.arrange(self._places(found), found, index, arranged)
        return arranged, index


def _narrowed(slot: SlotIndex, rows: I64, chosen: Tensor) -> SlotIndex:
    """As `_slot_index` would make it of the rows' own ids."""
    if slot.offsets is None:
        return SlotIndex(slot.name, slot.table, slot.pool, slot.index[chosen], None, slot.target)
    # few rows: plain lists take half of what as many small arrays do
    bounds = [*slot.offsets.tolist(), len(slot.index)]
    spans = [range(bounds[row], bounds[row + 1]) for row in rows.tolist()]
    lengths = list(map(len, spans))
    index = slot.index[_indices(chain.from_iterable(spans))]
    offsets = None if set(lengths) <= _ONE_EACH else _indices((0, *accumulate(lengths[:-1])))
    return SlotIndex(slot.name, slot.table, slot.pool, index, offsets, slot.target)


def _indices(values: Iterable[int]) -> Tensor:
    return torch.from_numpy(np.array(list(values), np.int64))


def _starts(lengths: I64) -> I64:
    return np.concatenate((_FIRST, np.cumsum(lengths)[:-1]))


def _slot_index(slot: SlotConfig, index: I64, lengths: I64 | None) -> SlotIndex:
    target = slot.ids_of if slot.pool == "attention" else None
    return SlotIndex(
        slot.name, slot.table, slot.pool, torch.from_numpy(index), _offsets(len(index), lengths), target
    )


def _offsets(total: int, lengths: I64 | None) -> Tensor | None:
    """Where each row starts, None where every row has one id of the `total`."""
    if lengths is None:
        return None
    if len(lengths) == 1:
        return None if total == 1 else torch.from_numpy(_FIRST)
    if total == len(lengths) and bool((lengths == 1).all()):
        return None
    return torch.from_numpy(_starts(lengths))

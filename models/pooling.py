"""Many embeddings of a slot made into one vector a row: mean, sum, or attention by the scored item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import kernels
from models.batch import SlotIndex
from schema.records import I64

_AGES: Final = 10
_NO_STARTS: Final = np.empty(0, np.int64)


def pooled(slots: Sequence[SlotIndex], embeddings: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One vector a row for each of `slots`, by name, from `embeddings` (u, d), by table; zero without ids."""
    found: dict[str, Tensor] = {}
    for table in dict.fromkeys(slot.table for slot in slots):
        mine = [slot for slot in slots if slot.table == table]
        rows = embeddings[table]
        if rows.device.type == "cpu":
            found |= _pooled_here(mine, rows)
        else:
            found |= {slot.name: _pooled_there(slot, rows) for slot in mine}
    return found


def _pooled_here(slots: Sequence[SlotIndex], rows: Tensor) -> dict[str, Tensor]:
    """All slots at once, so that `rows` has one gradient and not one a slot, each as large as all rows."""
    groups: dict[int, list[SlotIndex]] = {}
    for slot in slots:
        groups.setdefault(slot.bags, []).append(slot)
    outputs = _Pool.apply(rows, tuple(groups.values()))
    return {
        slot.name: vectors
        for group, output in zip(groups.values(), outputs, strict=True)
        for slot, vectors in zip(group, output.unbind(1), strict=True)
    }


def _pooled_there(slot: SlotIndex, rows: Tensor) -> Tensor:
    if slot.offsets is None:
        return rows[slot.index]
    return functional.embedding_bag(slot.index, rows, slot.offsets, mode=slot.pool)


class _Pool(torch.autograd.Function):
    """Pools rows (u, d) for groups of slots, those of equally many bags: for each a tensor (R, S, d)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, groups: Sequence[Sequence[SlotIndex]]) -> tuple[Tensor, ...]:
        ctx.shape, ctx.groups = rows.shape, groups
        values, outputs = rows.detach().contiguous().numpy(), []
        for group in groups:
            output = torch.empty(group[0].bags, len(group), rows.shape[1])
            for number, slot in enumerate(group):
                kernels.pool(values, *_bags(slot), number, output.numpy())
            outputs.append(output)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        rows = torch.zeros(ctx.shape)
        for group, gradient in zip(ctx.groups, gradients, strict=True):
            given = gradient.contiguous().numpy()
            for number, slot in enumerate(group):
                kernels.spread(given, *_bags(slot), number, rows.numpy())
        return rows, None


def _bags(slot: SlotIndex) -> tuple[I64, I64, bool]:
    """A slot as the kernels take it: places, where each bag starts, and whether it is to be the mean."""
    starts = _NO_STARTS if slot.offsets is None else slot.offsets.numpy()
    return slot.index.numpy(), starts, slot.pool == "mean"


class TargetAttention(nn.Module):
    """Weighs the items of a history by their likeness to the item that is scored, and by their age.

        out = sum_j softmax_j( q . k_j / sqrt(d) + age_j, and one more place with score `nothing` ) k_j

    q is a linear map of the scored item's embedding (Zhou et al., "Deep Interest Network", KDD 2018, with a
    softmax). Ages are places from the newest, in powers of two. A history without a fitting item may weigh
    nothing: that is the place without a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.age = nn.Parameter(torch.zeros(_AGES))
        self.nothing = nn.Parameter(torch.zeros(1))
        self._scale = 1 / math.sqrt(dim)
        nn.init.eye_(self.query.weight)

    def forward(self, slot: SlotIndex, rows: Tensor, targets: Tensor, request_of_row: Tensor) -> Tensor:
        """Vectors (n, d) for `targets` (n, d), from the histories of R requests in `slot`."""
        index, valid = padded(slot)
        keys = rows[index][request_of_row]
        scores = torch.bmm(keys, (self.query(targets) * self._scale).unsqueeze(2)).squeeze(2)
        places = torch.arange(index.shape[1], 0, -1, device=index.device)
        scores = scores + self.age[torch.log2(places.float()).long().clamp(max=_AGES - 1)]
        scores = scores.masked_fill(~valid[request_of_row], -torch.inf)
        scores = torch.cat([scores, self.nothing.expand(len(targets), 1)], dim=1)
        weights = torch.softmax(scores, dim=1)[:, :-1]
        return torch.bmm(weights.unsqueeze(1), keys).squeeze(1)


def padded(slot: SlotIndex) -> tuple[Tensor, Tensor]:
    """The ids of each row, newest last, flush right: indices (R, L), 0 where there is none, and which are."""
    if slot.offsets is None:
        return slot.index.unsqueeze(1), torch.ones_like(slot.index, dtype=torch.bool).unsqueeze(1)
    ends = torch.cat([slot.offsets[1:], slot.offsets.new_tensor([len(slot.index)])])
    longest = max(1, int((ends - slot.offsets).max()))
    at = ends.unsqueeze(1) - torch.arange(longest, 0, -1, device=ends.device)
    valid = at >= slot.offsets.unsqueeze(1)
    filled = slot.index if len(slot.index) else slot.index.new_zeros(1)
    return torch.where(valid, filled[at.clamp(min=0)], 0), valid

"""The user's vector: pooled embeddings of the items of a history, and a small network on top.

    x = m + W_2 relu(W_1 m + b_1) + b_2          m = pool(history) [+ the user's own vector]

The second term starts at zero. The user's id is not needed, so a user of one action already has a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from schema.records import F32

Pool = Literal["mean", "sqrtn", "attention"]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TowerWeights:
    """A tower without torch; float32. `attention` (dim,) is None where every item counts alike.

    up (dim, hidden), up_bias (hidden,), down (hidden, dim), down_bias (dim,).
    """

    pool: Pool
    attention: F32 | None
    up: F32
    up_bias: F32
    down: F32
    down_bias: F32

    def users(self, history: F32, starts: I64, own: F32 | None = None) -> F32:
        """Vectors (n, dim), as `UserTower.forward` gives them, of at least one user."""
        ends = np.append(starts[1:], len(history))
        lengths = (ends - starts)[:, None]
        kept = np.flatnonzero(lengths[:, 0])
        if self.attention is not None and len(history):
            shares = _shares(history @ self.attention, starts[kept], lengths[kept, 0])
            history = history * shares[:, None]
        pooled = np.zeros((len(starts), self.up.shape[0]), np.float32)
        if len(kept):
            pooled[kept] = np.add.reduceat(history, starts[kept], axis=0)
        if self.pool != "attention":
            pooled /= np.maximum(lengths if self.pool == "mean" else np.sqrt(lengths), 1).astype(np.float32)
        if own is not None:
            pooled += own
        hidden = np.maximum(pooled @ self.up + self.up_bias, 0)
        users: F32 = pooled + hidden @ self.down + self.down_bias
        return users


def _shares(logits: F32, starts: I64, lengths: I64) -> F32:
    """The softmax of `logits` (total,) within each history."""
    weights = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts), lengths))
    shares: F32 = weights / np.repeat(np.add.reduceat(weights, starts), lengths)
    return shares


class UserTower(nn.Module):
    """Vectors of users.

    Args:
        dim: the width of an item's embedding and of a user's vector.
        hidden: units of the network on top.
        pool: "mean"; "sqrtn", the sum over the root of the number, so that more evidence makes a longer
            vector; or "attention", weights softmax(a @ item) over the history.
    """

    def __init__(self, dim: int, hidden: int, pool: Pool) -> None:
        super().__init__()
        self.pool: Pool = pool
        self.attention = nn.Parameter(torch.zeros(dim)) if pool == "attention" else None
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, history: Tensor, starts: Tensor, own: Tensor | None = None) -> Tensor:
        """Vectors (n, dim) of n users.

        Args:
            history: the embeddings of all histories' items one after another, (total, dim).
            starts: where each user's history starts, i64 (n,); an empty one pools to zero.
            own: the users' own vectors (n, dim), where the configuration has the user's id.
        """
        ends = torch.cat([starts[1:], starts.new_tensor([len(history)])])
        lengths = ends - starts
        owner = torch.repeat_interleave(torch.arange(len(starts)), lengths)
        if self.attention is not None:
            shares = _tensor_shares(history @ self.attention, owner, len(starts))
            history = history * shares.unsqueeze(1)
        pooled = history.new_zeros(len(starts), history.shape[1]).index_add(0, owner, history)
        if self.pool != "attention":
            counts = lengths.clamp(min=1).to(history.dtype).unsqueeze(1)
            pooled = pooled / (counts if self.pool == "mean" else counts.sqrt())
        if own is not None:
            pooled = pooled + own
        users: Tensor = pooled + self.down(torch.relu(self.up(pooled)))
        return users

    @torch.no_grad()
    def export(self) -> TowerWeights:
        """The tower for serving, as of now."""
        attention = None if self.attention is None else _array(self.attention)
        up, down = self.up, self.down
        return TowerWeights(
            self.pool,
            attention,
            _array(up.weight.T),
            _array(up.bias),
            _array(down.weight.T),
            _array(down.bias),
        )


def _tensor_shares(logits: Tensor, owner: Tensor, users: int) -> Tensor:
    """The softmax of `logits` (total,) within each history; `owner` (total,) is whose each item is."""
    top = logits.new_full((users,), -torch.inf).scatter_reduce(0, owner, logits.detach(), "amax")
    weights = torch.exp(logits - top[owner])
    totals = weights.new_zeros(users).index_add(0, owner, weights)
    return weights / totals[owner]


def _array(tensor: Tensor) -> F32:
    return np.array(tensor.detach().cpu().numpy(), np.float32, order="C")

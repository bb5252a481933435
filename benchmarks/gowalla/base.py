"""The base model: Deep Retrieval's user tower and linear softmax, and what it recommends by brute force.

It starts from the truncated singular value decomposition of the normalised user-item matrix (the ideal
low-pass filter of Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021) and learns
by a sampled softmax.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gowalla.checkins import I64, Checkins
from models.retrieval.postings import Reranker
from models.retrieval.user import UserTower


@dataclass(frozen=True)
class Fit:
    """How the base is fitted: `negatives` items a step, a share `hide` of each history hidden from it."""

    dim: int = 128
    epochs: int = 9
    batch: int = 512
    negatives: int = 4096
    hide: float = 0.5
    learning_rate: float = 3e-3


class Base(nn.Module):
    """Tower, history embeddings, and the softmax's vectors and biases of all items."""

    def __init__(self, data: Checkins, dim: int) -> None:
        super().__init__()
        history, vectors = _factors(data, dim)
        self.tower = UserTower(dim, dim, "sqrtn")
        self.history = nn.Parameter(history)
        self.vectors = nn.Parameter(vectors)
        self.bias = nn.Parameter(torch.from_numpy(0.3 * np.log(degrees(data))).float())

    def users(self, data: Checkins, users: I64) -> Tensor:
        """Vectors of `users` (n,) from their known items."""
        return self.pooled(*data.known.of(users))

    def pooled(self, items: I64, counts: I64, scale: float = 1.0) -> Tensor:
        """Vectors of users with histories of `counts` (n,) `items`, whose embeddings are scaled."""
        starts = torch.from_numpy(np.cumsum(counts) - counts)
        vectors: Tensor = self.tower(scale * self.history[torch.from_numpy(items)], starts)
        return vectors

    @torch.no_grad()
    def all_users(self, data: Checkins) -> np.ndarray:
        """Vectors of all users, f32 (users, dim)."""
        parts = [
            self.users(data, np.arange(s, min(s + 4096, data.users))) for s in range(0, data.users, 4096)
        ]
        return torch.cat(parts).numpy()

    def reranker(self) -> Reranker:
        """The softmax over all items, as retrieval uses it."""
        return Reranker(self.vectors.detach().numpy(), self.bias.detach().numpy())


def _factors(data: Checkins, dim: int) -> tuple[Tensor, Tensor]:
    """History and softmax vectors of items, both (items, dim)."""
    counts = np.diff(data.known.starts)
    owner = np.repeat(np.arange(data.users), counts)
    degree = degrees(data)
    values = 1 / np.sqrt(counts[owner] * degree[data.known.items])
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([owner, data.known.items])),
        torch.from_numpy(values.astype(np.float32)),
        (data.users, data.items),
        check_invariants=True,
    ).coalesce()
    v = torch.svd_lowrank(matrix, q=dim, niter=4)[2]
    popular = torch.from_numpy(degree.astype(np.float32)).unsqueeze(1)
    # scales at which the first logits are small but not flat
    return v * (popular.sqrt().mean() / popular.sqrt()), 4 * v * popular**0.25


def degrees(data: Checkins) -> I64:
    """How many users each item has, at least 1, (items,)."""
    return np.maximum(np.bincount(data.known.items, minlength=data.items), 1)


def fit(data: Checkins, how: Fit, say: Callable[[str], None]) -> Base:
    """The base model of `data`."""
    base = Base(data, how.dim)
    # the network on top of the pool stays at its start, the identity: here it only learned by heart
    optimizer = torch.optim.Adam([base.history, base.vectors, base.bias], lr=how.learning_rate)
    steps = how.epochs * -(-data.users // how.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, steps)
    chances = torch.from_numpy(np.sqrt(degrees(data) / degrees(data).sum()))
    chances /= chances.sum()
    for epoch in range(how.epochs):
        began, losses = time.monotonic(), []
        order = np.random.default_rng(epoch).permutation(data.users)
        for start in range(0, data.users, how.batch):
            loss = _batch_loss(base, data, order[start : start + how.batch], how, chances)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(f"base, epoch {epoch + 1}: loss {np.mean(losses):.2f}, {time.monotonic() - began:.0f} s")
    return base


def _batch_loss(base: Base, data: Checkins, users: I64, how: Fit, chances: Tensor) -> Tensor:
    """-log p(v | x) of all of the users' items, a user of n weighing sqrt(n).

    The softmax's other items are drawn by the root of their popularity, and corrected for it.
    """
    items, counts = data.known.of(users)
    owner = np.repeat(np.arange(len(users)), counts)
    shown = torch.rand(len(items)).numpy() >= how.hide
    # part of a history, pooled over the root of its length, is shorter than all of it would be
    scale = (1 - how.hide) ** -0.5
    x = base.pooled(items[shown], np.bincount(owner[shown], minlength=len(users)), scale)
    drawn = torch.multinomial(chances, how.negatives, replacement=True)
    correction = torch.log(how.negatives * chances[drawn]).float()
    others = torch.logsumexp(torch.addmm(base.bias[drawn] - correction, x, base.vectors[drawn].T), dim=1)
    rows, positives = torch.from_numpy(owner), torch.from_numpy(items)
    scores = (x[rows] * base.vectors[positives]).sum(dim=1) + base.bias[positives]
    weights = torch.from_numpy(counts.astype(np.float32)).rsqrt()[rows]
    return (weights * (torch.logaddexp(others[rows], scores) - scores)).sum() / len(users)


@torch.no_grad()
def brute_force(base: Base, data: Checkins, top: int) -> I64:
    """The `top` items by the softmax over all items, less the known ones, i64 (users, top)."""
    best = []
    for start in range(0, data.users, 512):
        users = np.arange(start, min(start + 512, data.users))
        scores = torch.addmm(base.bias, base.users(data, users), base.vectors.T)
        items, counts = data.known.of(users)
        scores[
            torch.from_numpy(np.repeat(np.arange(len(users)), counts)), torch.from_numpy(items)
        ] = -torch.inf
        best.append(scores.topk(top, dim=1).indices)
    return torch.cat(best).numpy()

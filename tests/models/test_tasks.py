"""The synthetic regression tasks of the MMoE paper (Ma et al., KDD 2018, section 3.2).

y = w . x + sum_i sin(alpha_i w . x + beta_i) + noise for two tasks whose weights have a given cosine. Where the
tasks are little related, one shared bottom has to serve two ends, and gates need not.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.mixture import Mixture
from schema.config import ModelConfig

WIDTH = 100
EXPERTS, HIDDEN, TOWER = 8, 16, 8
STEPS, ROWS = 1500, 128


class SharedBottom(nn.Module):
    """One hidden layer for both tasks, of as many parameters as the experts and gates have."""

    def __init__(self) -> None:
        super().__init__()
        budget = EXPERTS * (WIDTH + 1) * HIDDEN + 2 * WIDTH * EXPERTS + 2 * HIDDEN * TOWER
        wide = round(budget / (WIDTH + 1 + 2 * TOWER))
        self.bottom = nn.Sequential(nn.Linear(WIDTH, wide), nn.ReLU())
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(wide, TOWER), nn.ReLU(), nn.Linear(TOWER, 1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        shared = self.bottom(x)
        return torch.cat([tower(shared) for tower in self.towers], dim=1)


class Tasks:
    """Two tasks of cosine `correlation`."""

    def __init__(self, correlation: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        basis, _ = np.linalg.qr(rng.normal(size=(WIDTH, 2)))
        second = correlation * basis[:, 0] + np.sqrt(1 - correlation**2) * basis[:, 1]
        self._weights = torch.from_numpy(np.stack([basis[:, 0], second], axis=1)).float()
        self._random = torch.Generator().manual_seed(seed)

    def rows(self, count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(count, WIDTH, generator=self._random)
        t = x @ self._weights
        waves = sum(torch.sin(a * t + b) for a, b in ((1.0, 0.5), (2.0, 1.0), (3.0, 1.5)))
        noise = 0.1 * torch.randn(t.shape, generator=self._random)
        return x, t + waves + noise


def final_loss(model: nn.Module, correlation: float, seed: int) -> float:
    tasks = Tasks(correlation, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        x, y = tasks.rows(ROWS)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    x, y = tasks.rows(10_000)
    with torch.no_grad():
        return float((model(x) - y).square().mean())


def losses(correlation: float, seed: int) -> tuple[float, float]:
    torch.manual_seed(seed)
    config = ModelConfig(experts=EXPERTS, expert_hidden=(HIDDEN,), head_hidden=(TOWER,))
    mixture, shared = Mixture(config, WIDTH, tasks=2), SharedBottom()
    sizes = [sum(p.numel() for p in m.parameters()) for m in (mixture, shared)]
    assert abs(sizes[0] - sizes[1]) < 0.02 * sizes[0]
    return final_loss(mixture, correlation, seed), final_loss(shared, correlation, seed)


def test_gates_beat_a_shared_bottom_where_tasks_are_unrelated():
    found = [losses(0.0, seed) for seed in range(2)]
    assert np.mean([m for m, _ in found]) < np.mean([s for _, s in found])


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_ten_seeds(correlation):
    mixed, shared = np.array([losses(correlation, seed) for seed in range(10)]).T
    if correlation < 1:
        assert mixed.mean() < shared.mean()
        assert (mixed < shared).sum() >= 8
    else:
        assert mixed.mean() < 1.1 * shared.mean()

"""The position tower: what it adds, what it forgets, and the bias that it takes out of simulated clicks."""

from __future__ import annotations

import numpy as np
import torch

from models.batch import Batch, Collator, Shown
from models.heads import Heads, Targets
from models.metrics import TaskMetrics
from models.mmoe import MMoE
from models.tower import PositionTower
from schema.config import DenseConfig, FeaturesConfig, ModelConfig, PositionConfig, SlotConfig
from schema.records import F32, I64, POSITION_MISSING, Features, IdColumn, column
from trainer.step import noise

FEATURES = FeaturesConfig(
    slots=(SlotConfig(name="video", slot=1, source="item.id"),),
    dense=(DenseConfig(name="quality", source="item.quality"),),
)
PLACES = 10


def batch(quality: F32, positions: I64, surfaces: I64) -> Batch:
    """One row a request."""
    n = len(quality)
    features = [
        Features((), (IdColumn(1, column([1], "<u8")),), b"", column([q], "<f4")) for q in quality.tolist()
    ]
    return Collator(FEATURES).collate(features, [1] * n, Shown(positions, surfaces))


def filled(config: PositionConfig, tasks: int = 2) -> PositionTower:
    torch.manual_seed(1)
    tower = PositionTower(config, tasks)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter)
    return tower


def test_an_unknown_position_gains_nothing():
    rows = batch(np.zeros(3, "f4"), np.array([0, POSITION_MISSING, 5]), np.array([1, 1, 2]))
    gains = filled(PositionConfig())(rows)
    assert gains[1].tolist() == [0, 0]
    assert bool((gains[[0, 2]] != 0).all())


def test_far_positions_and_surfaces_share_the_last_row():
    config = PositionConfig(positions=4, surfaces=3)
    rows = batch(np.zeros(3, "f4"), np.array([3, 9, 500]), np.array([2, 7, 60_000]))
    gains = filled(config)(rows)
    assert torch.equal(gains[0], gains[1])
    assert torch.equal(gains[0], gains[2])


def test_dropout_takes_its_share_and_is_a_function_of_seed_and_step():
    rows = batch(np.zeros(2000, "f4"), np.zeros(2000, np.int64), np.zeros(2000, np.int64))
    tower = filled(PositionConfig(dropout=0.1), tasks=1)
    draws = [tower(rows, noise(seed, step)) for seed, step in ((1, 7), (1, 7), (1, 8), (2, 7))]
    lost = float((draws[0] == 0).float().mean())
    assert 0.08 < lost < 0.12
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[3])
    assert bool((tower(rows) != 0).all())


class Clicks:
    """Impressions ordered by a noisy guess of their quality: the better they are, the higher they stand.

    A click needs a look, whose odds fall with the position, so that clicks overstate what stands high.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.bias = -2.5 * np.linspace(0, 1, PLACES)

    def rows(self, pages: int, *, shuffled: bool = False) -> tuple[F32, I64, F32]:
        """Qualities as the model sees them, positions and clicks, each (pages * PLACES,)."""
        rng = self._rng
        quality = rng.normal(size=(pages, PLACES))
        guess = rng.normal(size=quality.shape) if shuffled else quality + 0.7 * rng.normal(size=quality.shape)
        positions = np.argsort(np.argsort(-guess, axis=1), axis=1).ravel()
        logits = quality.ravel() + np.where(shuffled, 0.0, self.bias[positions])
        clicks = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
        # the model also sees the ranker's guess, through which an uncorrected one learns the position
        seen = quality.ravel() + 0.5 * guess.ravel()
        return seen.astype("f4"), positions, clicks.astype("f4")


def fitted(clicks: Clicks, position: PositionConfig | None) -> MMoE:
    torch.manual_seed(0)
    config = ModelConfig(experts=2, expert_hidden=(8,), head_hidden=(), position=position)
    model = MMoE(config, FEATURES, tasks=1, dim=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(200):
        seen, positions, label = clicks.rows(40)
        rows = batch(seen, positions, np.zeros(len(seen), np.int64))
        target = torch.from_numpy(label).unsqueeze(1)
        logits, _ = model.learning(rows, {"embedding": torch.zeros(1, 2)}, noise(0, step))
        optimizer.zero_grad()
        Heads().loss(logits, Targets(target, torch.ones_like(target), torch.zeros(len(seen)))).backward()
        optimizer.step()
    return model


def loss_on_shuffled(model: MMoE) -> float:
    """Log loss of clicks on pages in random order that everyone looks at whole."""
    seen, _, label = Clicks(99).rows(400, shuffled=True)
    rows = batch(seen, np.full(len(seen), POSITION_MISSING), np.zeros(len(seen), np.int64))
    with torch.no_grad():
        p = torch.sigmoid(model(rows, {"embedding": torch.zeros(1, 2)})).numpy()
    metrics = TaskMetrics(1)
    metrics.update(p, label[:, None], np.ones_like(p))
    return float(metrics.mean_log_loss()[0])


def test_the_tower_takes_position_bias_out_of_clicks():
    config = PositionConfig(positions=PLACES, surfaces=1)
    corrected, plain = fitted(Clicks(1), config), fitted(Clicks(1), None)
    everywhere = batch(np.zeros(PLACES, "f4"), np.arange(PLACES), np.zeros(PLACES, np.int64))
    assert corrected.tower is not None
    with torch.no_grad():
        learned = corrected.tower(everywhere)[:, 0].numpy()
    assert np.corrcoef(learned, Clicks(1).bias)[0, 1] > 0.9
    assert loss_on_shuffled(corrected) < loss_on_shuffled(plain)

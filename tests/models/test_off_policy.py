"""A ranker learned from a Thompson-sampling log, valued off policy, against its value on a uniform log.

The Open Bandit Dataset (Saito et al., NeurIPS 2021) logs both policies on the same page, with propensities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from models.batch import Collator, Shown
from models.heads import Heads, Targets
from models.losses import propensity_weights
from models.metrics import F64
from models.mmoe import MMoE
from schema.config import FeaturesConfig, ModelConfig, PositionConfig, SlotConfig
from schema.ids import feature_id
from schema.records import I64, U64, Features, IdColumn, column
from trainer.step import noise

USER = tuple(f"user_feature_{i}" for i in range(4))
FEATURES = FeaturesConfig(
    slots=(
        *(SlotConfig(name=name, slot=i + 1, source=f"user.{name}") for i, name in enumerate(USER)),
        SlotConfig(name="item", slot=9, source="item.id"),
    )
)
ITEMS, DIM, CLIP = 80, 4, 100
GREED = 10.0
ESTIMATE_CLIP = 10.0


class Log:
    """n impressions: user features (n, 4), items, positions from 0, clicks, propensities, each (n,)."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path)
        self.users = list(zip(*(table[name].to_pylist() for name in USER), strict=True))
        self.items: I64 = table["item_id"].to_numpy().astype(np.int64)
        self.positions: I64 = table["position"].to_numpy().astype(np.int64) - 1
        self.clicks: F64 = table["click"].to_numpy().astype(float)
        self.odds: F64 = table["propensity_score"].to_numpy().astype(float)


class Ranker:
    """The ranker with its embeddings in one parameter."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = ModelConfig(
            experts=2, expert_hidden=(16,), head_hidden=(), position=PositionConfig(positions=3)
        )
        self.model = MMoE(config, FEATURES, tasks=1, dim=DIM)
        self.model.start_from([0.005])
        self._row: dict[int, int] = {}
        self._vectors = torch.nn.Parameter(0.05 * torch.randn(500, DIM))
        self._collator = Collator(FEATURES)

    def _rows_of(self, ids: U64) -> torch.Tensor:
        return self._vectors[[self._row.setdefault(i, len(self._row)) for i in ids.tolist()]]

    def _features(self, user: tuple[str, ...], items: list[int]) -> Features:
        context = [IdColumn(i + 1, column([feature_id(i + 1, v)], "<u8")) for i, v in enumerate(user)]
        return Features(tuple(context), (IdColumn(9, column([feature_id(9, i) for i in items], "<u8")),))

    def learn(self, log: Log, rows: range, *, passes: int) -> None:
        optimizer = torch.optim.Adam([*self.model.parameters(), self._vectors], lr=0.003, weight_decay=1e-4)
        weights = propensity_weights(torch.from_numpy(log.odds[rows]).float(), CLIP)
        step = 0
        for _ in range(passes):
            for start in range(0, len(rows), 500):
                at = list(rows[start : start + 500])
                features = [self._features(log.users[i], [int(log.items[i])]) for i in at]
                shown = Shown(log.positions[at], np.zeros(len(at), np.int64))
                batch = self._collator.collate(features, [1] * len(at), shown)
                step += 1
                vectors = {table: self._rows_of(ids) for table, ids in batch.ids.items()}
                logits, _ = self.model.learning(batch, vectors, noise(0, step))
                labels = torch.from_numpy(log.clicks[at]).float().unsqueeze(1)
                of = weights[start : start + 500]
                targets = Targets(labels, torch.ones_like(labels), torch.zeros(len(at)), of)
                optimizer.zero_grad()
                Heads().loss(logits, targets).backward()
                optimizer.step()

    def policy(self, user: tuple[str, ...]) -> F64:
        """How likely it shows each item to `user`: softmax of GREED times the logit, shape (80,)."""
        batch = self._collator.collate([self._features(user, list(range(ITEMS)))], [ITEMS])
        with torch.no_grad():
            vectors = {table: self._rows_of(ids) for table, ids in batch.ids.items()}
            return torch.softmax(GREED * self.model(batch, vectors)[:, 0].double(), 0).numpy()


def weighted(weights: F64, clicks: F64) -> tuple[float, float]:
    """The clipped, self-normalised estimate of the click rate, and its standard error."""
    clipped = np.minimum(weights, ESTIMATE_CLIP)
    estimate = (clipped * clicks).sum() / clipped.sum()
    error = np.sqrt((clipped**2 * (clicks - estimate) ** 2).sum()) / clipped.sum()
    return float(estimate), float(error)


@pytest.mark.data
def test_the_value_estimated_from_another_policys_log_is_the_value(data_dir: Path):
    """Two-fold: each half of the Thompson log is valued by the ranker that learned from the other.

    Unclipped, the 10,000 rows with propensities down to 4.5e-5 are worth 229 of the policy's own; clipped, 1,700.
    """
    thompson = Log(data_dir / "open_bandit/bts_all.parquet")
    uniform = Log(data_dir / "open_bandit/random_all.parquet")
    rankers = [Ranker(), Ranker()]
    for ranker, half in zip(rankers, (range(5000), range(5000, 10_000)), strict=True):
        ranker.learn(thompson, half, passes=3)
    users = {*thompson.users, *uniform.users}
    shown = [{user: ranker.policy(user) for user in users} for ranker in rankers]
    assert all(max(p.max() for p in s.values()) > 1.5 / ITEMS for s in shown), "a ranker prefers nothing"
    rows = list(zip(thompson.users, thompson.items, strict=True))
    other = np.array([shown[i < 5000][user][item] for i, (user, item) in enumerate(rows)])
    pairs = zip(uniform.users, uniform.items, strict=True)
    own = np.array([(shown[0][user][item] + shown[1][user][item]) / 2 for user, item in pairs])
    off, its_error = weighted(other / thompson.odds, thompson.clicks)
    on, error = weighted(own / uniform.odds, uniform.clicks)
    assert abs(off - on) < 1.96 * np.hypot(error, its_error)

"""The structure network and its losses against slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.retrieval.frequency import ItemFrequencies
from models.retrieval.network import StructureNetwork, structure_loss
from models.retrieval.reranker import sampled_softmax_loss
from models.retrieval.user import UserTower
from tests.models.retrieval import naive


@pytest.fixture
def network():
    torch.manual_seed(3)
    return StructureNetwork(dim=5, nodes=4, depth=3, hidden=6)


def test_the_probabilities_of_all_paths_are_those_of_the_export_and_add_up_to_one(network):
    user = torch.randn(1, 5)
    paths = torch.arange(64)
    log_probs = network.log_probs(user, torch.zeros(64, dtype=torch.long), paths).detach()
    assert float(log_probs.exp().sum()) == pytest.approx(1, abs=1e-5)
    slow = naive.all_paths(network.export(), user[0].double().numpy())
    np.testing.assert_allclose(log_probs.numpy(), slow, atol=1e-5)


def test_the_loss_is_minus_the_log_of_the_sum_over_an_items_paths(network):
    users = torch.randn(3, 5)
    rows = torch.tensor([0, 2, 2, 1])
    paths = torch.tensor([[1, 63, 5], [7, -1, 2], [-1, -1, -1], [0, 1, -1]])
    losses = structure_loss(network, users, rows, paths).detach().numpy()
    weights = network.export()
    for loss, row, codes in zip(losses, rows.tolist(), paths.tolist(), strict=True):
        probs = np.exp(naive.all_paths(weights, users[row].double().numpy()))
        known = [c for c in codes if c >= 0]
        assert loss == pytest.approx(-np.log(probs[known].sum()) if known else 0, abs=1e-5)


def test_the_loss_of_pairs_without_a_path_has_a_finite_gradient(network):
    users = torch.randn(2, 5, requires_grad=True)
    losses = structure_loss(network, users, torch.tensor([0, 1]), torch.tensor([[-1, -1], [3, -1]]))
    losses.sum().backward()
    assert torch.isfinite(users.grad).all()
    assert float(users.grad[0].abs().sum()) == 0
    assert float(users.grad[1].abs().sum()) > 0


def test_with_all_items_and_no_correction_the_sampled_softmax_is_the_softmax():
    torch.manual_seed(0)
    users, vectors, bias = torch.randn(3, 4), torch.randn(10, 4), torch.randn(10)
    rows, positives = torch.tensor([0, 1, 1]), torch.tensor([2, 9, 0])
    losses = sampled_softmax_loss(users, vectors, bias, torch.zeros(10), rows, positives)
    full = torch.log_softmax(users @ vectors.T + bias, dim=1)[rows, positives]
    torch.testing.assert_close(losses, -full)


def test_the_correction_makes_the_sampled_normaliser_unbiased():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=200)).float()
    frequencies = ItemFrequencies(1.0)
    stream = np.minimum(rng.geometric(0.03, 20_000) - 1, 199)
    frequencies.count(np.concatenate([stream, np.arange(200)]))
    share = frequencies.counts / frequencies.total
    sums = []
    for _ in range(2000):
        drawn = np.unique(rng.choice(200, 60, p=share))
        log_q = torch.from_numpy(frequencies.log_inclusion(drawn, 60))
        ones = torch.ones(1, 1)
        at = torch.zeros(1, dtype=torch.long)
        loss = sampled_softmax_loss(ones, logits[drawn].unsqueeze(1), torch.zeros(len(drawn)), log_q, at, at)
        sums.append(float(torch.exp(loss + logits[drawn[0]] - log_q[0])))
    assert np.mean(sums) == pytest.approx(float(logits.exp().sum()), rel=0.05)


def test_frequencies_decay_and_do_not_overflow():
    frequencies = ItemFrequencies(0.5)
    for _ in range(1000):
        frequencies.count(np.array([0, 0]))
    frequencies.count(np.array([1, 1]))
    share = frequencies.counts[:2] / frequencies.total
    np.testing.assert_allclose(share, [0.5, 0.5], atol=1e-6)
    frequencies.count(np.empty(0, np.int64))
    np.testing.assert_allclose(np.exp(frequencies.log_inclusion(np.array([1]), 1)), [0.5], atol=1e-6)
    with pytest.raises(ValueError, match="decay: 0"):
        ItemFrequencies(0)


@pytest.mark.parametrize("pool", ["mean", "sqrtn", "attention"])
def test_a_tower_pools_each_history_and_serves_the_same_without_torch(pool):
    torch.manual_seed(1)
    tower = UserTower(4, 6, pool)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter)
    history, starts, own = torch.randn(7, 4), torch.tensor([0, 0, 3, 7]), torch.randn(4, 4)
    users = tower(history, starts, own).detach()
    parts = [history[:0], history[:3], history[3:], history[:0]]
    for user, part, mine in zip(users, parts, own, strict=True):
        pooled = torch.zeros(4)
        if len(part) and pool == "attention":
            pooled = torch.softmax(part @ tower.attention, dim=0) @ part
        elif len(part):
            pooled = part.sum(dim=0) / (len(part) if pool == "mean" else len(part) ** 0.5)
        pooled = pooled + mine
        torch.testing.assert_close(user, pooled + tower.down(torch.relu(tower.up(pooled))))
    served = tower.export().users(history.numpy(), starts.numpy(), own.numpy())
    np.testing.assert_allclose(served, users.numpy(), rtol=1e-4, atol=1e-5)


def test_a_new_tower_is_the_pool_alone():
    tower = UserTower(3, 5, "mean")
    history = torch.randn(4, 3)
    torch.testing.assert_close(tower(history, torch.tensor([0]))[0], history.mean(dim=0))

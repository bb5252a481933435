"""The optimizers, through pushes to a table, against torch and scalar oracles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from parameter_server.errors import InvalidRequest
from parameter_server.table import Table
from schema.config import OptimizerConfig, SlotRowsConfig, TableConfig
from tests.parameter_server.cases import u64
from tests.parameter_server.naive import adagrad, first_vector

DIM = 8
IDS = [3, 11, 1 << 50, 2**63]
STEPS = [[3, 11], [3], [1 << 50, 3, 11], [2**63, 11], [3, 2**63], [11, 3, 1 << 50, 2**63]]


def config(optimizer: OptimizerConfig, **more: Any) -> TableConfig:
    return TableConfig(name="t", dim=DIM, init_scale=0.5, seed=9, capacity=16, optimizer=optimizer, **more)


def start(wanted: int) -> np.ndarray:
    return first_vector(9, wanted, DIM, 0.5).astype(np.float64)


def trained(table: Table, seed: int = 0) -> dict[int, list[np.ndarray]]:
    """Push `STEPS`; the gradients that each id had."""
    rng = np.random.default_rng(seed)
    had: dict[int, list[np.ndarray]] = {wanted: [] for wanted in IDS}
    for clock, ids in enumerate(STEPS, 1):
        values = rng.normal(size=(len(ids), DIM)).astype(np.float32)
        table.push(u64(ids), values, clock, 0)
        for wanted, gradient in zip(ids, values, strict=True):
            had[wanted].append(gradient)
    return had


TORCH: dict[str, tuple[OptimizerConfig, Callable[[torch.Tensor], torch.optim.Optimizer]]] = {
    "sgd": (
        OptimizerConfig(kind="sgd", learning_rate=0.1, weight_decay=0.01),
        lambda p: torch.optim.SGD([p], lr=0.1, weight_decay=0.01),
    ),
    "adagrad": (
        OptimizerConfig(kind="adagrad", initial_accumulator=0.1, weight_decay=0.02),
        lambda p: torch.optim.Adagrad(
            [p], lr=0.05, initial_accumulator_value=0.1, eps=1e-8, weight_decay=0.02
        ),
    ),
    "adam": (
        OptimizerConfig(kind="adam", learning_rate=0.02, weight_decay=0.01, beta1=0.8),
        lambda p: torch.optim.Adam([p], lr=0.02, betas=(0.8, 0.999), weight_decay=0.01),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_each_row_learns_as_torch_would_with_its_gradients_alone(name: str) -> None:
    ours, theirs = TORCH[name]
    table = Table(config(ours), 10)
    for wanted, gradients in trained(table).items():
        parameter = torch.tensor(start(wanted), requires_grad=True)
        optimizer = theirs(parameter)
        for gradient in gradients:
            parameter.grad = torch.from_numpy(gradient.astype(np.float64))
            optimizer.step()
        assert np.allclose(table.pull(u64([wanted]))[0], parameter.detach(), rtol=0, atol=1e-6)


def test_row_wise_adagrad_equals_the_oracle() -> None:
    table = Table(config(OptimizerConfig(initial_accumulator=0.1)), 10)
    for wanted, gradients in trained(table).items():
        vector, accumulator = start(wanted), 0.1
        for gradient in gradients:
            vector, accumulator = adagrad(vector, accumulator, gradient, 0.05, 1e-8)
        assert np.allclose(table.pull(u64([wanted]))[0], vector, rtol=0, atol=1e-6)


def ftrl(w: float, gradients: list[float], c: OptimizerConfig) -> tuple[float, float]:
    """One weight and its z, after McMahan et al., algorithm 1, with z such that it starts at `w`."""
    n = c.initial_accumulator
    z = -w * ((c.ftrl_beta + n**0.5) / c.learning_rate + c.l2) - float(np.sign(w)) * c.l1
    for g in gradients:
        sigma = ((n + g * g) ** 0.5 - n**0.5) / c.learning_rate
        z += g - sigma * w
        n += g * g
        if abs(z) <= c.l1:
            w = 0.0
        else:
            w = -(z - np.sign(z) * c.l1) / ((c.ftrl_beta + n**0.5) / c.learning_rate + c.l2)
    return w, z


@pytest.mark.parametrize("l1", [0.0, 0.5, 3.0])
def test_ftrl_equals_the_oracle_for_both_signs_of_z(l1: float) -> None:
    chosen = OptimizerConfig(kind="ftrl", learning_rate=0.3, l1=l1, l2=0.1)
    table = Table(config(chosen), 10)
    zs = []
    for wanted, gradients in trained(table).items():
        expected = [ftrl(w, [float(g[j]) for g in gradients], chosen) for j, w in enumerate(start(wanted))]
        zs += [z for _, z in expected]
        assert np.allclose(table.pull(u64([wanted]))[0], [w for w, _ in expected], rtol=0, atol=1e-6)
    assert min(zs) < -l1, "a negative z beyond l1 is among the cases"
    assert max(zs) > l1, "and a positive one"


def test_an_untouched_ftrl_row_keeps_its_first_vector() -> None:
    table = Table(config(OptimizerConfig(kind="ftrl", l1=0.2)), 10)
    table.push(u64([5]), np.zeros((1, DIM), np.float32), 1, 0)
    assert np.allclose(table.pull(u64([5]))[0], start(5), atol=1e-6)


def test_slots_learn_by_their_own_optimizers() -> None:
    slow, fast = OptimizerConfig(kind="sgd", learning_rate=0.1), OptimizerConfig(kind="adam")
    table = Table(config(slow, slots={7: SlotRowsConfig(optimizer=fast)}), 10)
    mine, other = 7 << 48 | 1, 8 << 48 | 1
    for clock in range(1, 4):
        table.push(u64([mine, other]), np.ones((2, DIM), np.float32), clock, 0)
    alone = Table(config(fast), 10)
    for clock in range(1, 4):
        alone.push(u64([mine]), np.ones((1, DIM), np.float32), clock, 0)
    pulled = table.pull(u64([mine, other]))
    assert np.allclose(pulled[0], alone.pull(u64([mine]))[0], atol=1e-7)
    assert np.allclose(pulled[1], start(other) - 0.3, atol=1e-6)


def test_a_sum_is_clipped_to_the_norm_and_not_below() -> None:
    table = Table(config(OptimizerConfig(kind="sgd", learning_rate=1.0, clip_norm=2.0)), 10)
    big, small = np.full(DIM, 3.0, np.float32), np.full(DIM, 0.1, np.float32)
    table.push(u64([1, 1, 2]), np.stack([big, big, small]), 1, 0)
    moved = np.stack([start(1), start(2)]) - table.pull(u64([1, 2]))
    assert np.linalg.norm(moved[0]) == pytest.approx(2.0, rel=1e-5)
    assert np.allclose(moved[1], small, atol=1e-6)


def test_a_refused_push_is_counted() -> None:
    table = Table(config(OptimizerConfig()), 10)
    with pytest.raises(InvalidRequest, match="id 4 has"):
        table.push(u64([4]), np.full((1, DIM), np.inf, np.float32), 1, 0)
    assert table.counters.refused == 1


@pytest.mark.parametrize("dim", [1, 4, 7, 8, 9, 16, 23, 32, 40])
def test_rowwise_adagrad_takes_rows_of_any_width(dim: int) -> None:
    rule = OptimizerConfig(learning_rate=0.1, initial_accumulator=0.1, weight_decay=0.02)
    table = Table(TableConfig(name="t", dim=dim, init_scale=0.5, seed=9, capacity=16, optimizer=rule), 10)
    ids = u64(range(50))
    rng = np.random.default_rng(dim)
    expected = {int(i): (first_vector(9, int(i), dim, 0.5).astype(np.float64), 0.1) for i in ids}
    for clock in range(1, 4):
        values = rng.normal(size=(50, dim)).astype(np.float32)
        table.push(ids, values, clock, 0)
        for wanted, gradient in zip(expected, values, strict=True):
            vector, accumulator = expected[wanted]
            expected[wanted] = adagrad(vector, accumulator, gradient + 0.02 * vector, 0.1, 1e-8)
    oracle = np.stack([vector for vector, _ in expected.values()])
    np.testing.assert_allclose(table.pull(ids), oracle, rtol=0, atol=2e-6)


def test_a_narrow_row_is_clipped_by_the_values_that_it_has() -> None:
    rule = OptimizerConfig(kind="sgd", learning_rate=1.0, clip_norm=2.0)
    table = Table(config(rule, widths=(4, 8), grow_at=(100,)), 10)
    ids = u64([1, 2])
    gradients = np.full((2, DIM), 100.0, np.float32)
    gradients[0, :4], gradients[1, :4] = 0.5, 3.0
    before = table.pull(ids)
    table.push(ids, gradients, 1, 0)
    moved = before - table.pull(ids)
    np.testing.assert_allclose(moved[:, :4], [[0.5] * 4, [1.0] * 4], atol=1e-6)
    assert not moved[:, 4:].any()

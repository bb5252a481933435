"""Pooling against torch's own, target attention against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from models.batch import SlotIndex
from models.pooling import TargetAttention, pooled

DIM = 3


def by_hand(layer: TargetAttention, history: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights by likeness and age, one more place for nothing."""
    query = layer.query.weight.detach().numpy() @ target / math.sqrt(DIM)
    age = layer.age.detach().numpy()
    n = len(history)
    scores = [float(query @ key) + age[int(math.log2(n - i))] for i, key in enumerate(history)]
    every = np.exp([*scores, float(layer.nothing.detach())])
    return sum((w * key for w, key in zip(every / every.sum(), history, strict=False)), np.zeros(DIM))


@pytest.mark.parametrize("lengths", [(2, 0, 3), (1, 1), (0, 0), (20,)])
def test_attention_equals_the_formula(lengths):
    rng = np.random.default_rng(1)
    torch.manual_seed(1)
    layer = TargetAttention(DIM)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    rows = rng.normal(size=(9, DIM)).astype("f4")
    index = rng.integers(0, 9, sum(lengths))
    offsets = None if set(lengths) == {1} else torch.tensor([0, *np.cumsum(lengths)[:-1]])
    slot = SlotIndex("seen", "t", "attention", torch.from_numpy(index), offsets, "video")
    request_of_row = np.repeat(np.arange(len(lengths)), 2)
    targets = rng.normal(size=(len(request_of_row), DIM)).astype("f4")
    out = layer(slot, torch.from_numpy(rows), torch.from_numpy(targets), torch.from_numpy(request_of_row))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    want = [
        by_hand(layer, rows[index[starts[r] : starts[r + 1]]], target)
        for r, target in zip(request_of_row, targets, strict=True)
    ]
    np.testing.assert_allclose(out.detach().numpy(), np.stack(want), rtol=1e-4, atol=1e-5)


def bag(name: str, pool: str, lengths: list[int], rng: np.random.Generator, rows: int) -> SlotIndex:
    starts = torch.tensor([0, *np.cumsum(lengths)[:-1].tolist()])
    index = torch.from_numpy(rng.integers(0, rows, sum(lengths)))
    return SlotIndex(name, "t", pool, index, None if set(lengths) == {1} else starts)


def by_torch(slot: SlotIndex, rows: torch.Tensor) -> torch.Tensor:
    starts = torch.arange(len(slot.index)) if slot.offsets is None else slot.offsets
    return functional.embedding_bag(slot.index, rows, starts, mode=slot.pool)


@given(
    seed=st.integers(0, 10_000),
    context=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    dim=st.sampled_from([1, 3, 16, 17]),
)
def test_slots_pooled_together_equal_slots_pooled_one_by_one(seed, context, dim):
    rng = np.random.default_rng(seed)
    several = [bag("a", "mean", context, rng, 9), bag("b", "sum", context, rng, 9)]
    slots = [*several, bag("c", "mean", [1, 1, 1], rng, 9), bag("d", "mean", [0] * len(context), rng, 9)]
    values = torch.from_numpy(rng.normal(size=(9, dim)).astype("f4"))
    mine, its = values.clone().requires_grad_(), values.clone().requires_grad_()
    found = pooled(slots, {"t": mine})
    want = {slot.name: by_torch(slot, its) for slot in slots}
    pulls = {name: torch.from_numpy(rng.normal(size=v.shape).astype("f4")) for name, v in want.items()}
    for name, vectors in want.items():
        torch.testing.assert_close(found[name], vectors)
    for vectors in (found, want):
        sum((vectors[name] * pull).sum() for name, pull in pulls.items()).backward()
    torch.testing.assert_close(mine.grad, its.grad)


def test_a_table_without_ids_pools_to_zeros():
    slot = SlotIndex("a", "t", "sum", torch.empty(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    assert pooled([slot], {"t": torch.empty(0, 4)})["a"].tolist() == [[0.0] * 4] * 2

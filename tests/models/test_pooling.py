"""Target attention against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.batch import SlotIndex
from models.pooling import TargetAttention

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

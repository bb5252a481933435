"""The ranker: a Multi-gate Mixture of Experts over pooled slot embeddings (Ma et al., KDD 2018).

    y_k = head_k( sum_i softmax(W_k x)_i * expert_i(x) )

x holds one pooled embedding a slot and the dense values. Gates start at zero, so that every task first
sees the mean of all experts. A shortcut, linear in x, lets a head read an id's own bias at once, before the
experts have learned to pass it on (Cheng et al., "Wide & Deep", DLRS 2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.batch import Batch, SlotIndex
from schema.config import FeaturesConfig, ModelConfig


class MMoE(nn.Module):
    """Logits of `tasks` tasks for a batch.

    Args:
        config: layer sizes.
        features: the slots, each of which gives `dim` inputs, and the dense values, one each.
        tasks: how many heads.
        dim: the width of an embedding.
    """

    def __init__(self, config: ModelConfig, features: FeaturesConfig, tasks: int, dim: int) -> None:
        super().__init__()
        width = len(features.slots) * dim + len(features.dense)
        out = config.expert_hidden[-1]
        self.experts = nn.ModuleList(_stack((width, *config.expert_hidden)) for _ in range(config.experts))
        self.gates = nn.ModuleList(_zero_linear(width, config.experts) for _ in range(tasks))
        last = [nn.Linear((out, *config.head_hidden)[-1], 1) for _ in range(tasks)]
        self.heads = nn.ModuleList(nn.Sequential(_stack((out, *config.head_hidden)), layer) for layer in last)
        self._biases = [layer.bias for layer in last]
        self.shortcut = nn.Linear(width, tasks, bias=False)

    def start_from(self, priors: Sequence[float]) -> None:
        """Sets each head's bias so that an untrained model predicts its task's prior, in (0, 1)."""
        for bias, prior in zip(self._biases, priors, strict=True):
            nn.init.constant_(bias, math.log(prior / (1 - prior)))

    def forward(self, batch: Batch, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Logits, shape (n, tasks), from `embeddings` f32 (u, dim) of `batch.ids`, by table."""
        x = _inputs(batch, embeddings)
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        logits = []
        for gate, head in zip(self.gates, self.heads, strict=True):
            weights = torch.softmax(gate(x), dim=1).unsqueeze(1)
            logits.append(head(torch.bmm(weights, experts).squeeze(1)))
        shortcut: Tensor = self.shortcut(x)
        return torch.cat(logits, dim=1) + shortcut


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _inputs(batch: Batch, embeddings: Mapping[str, Tensor]) -> Tensor:
    context = [_pooled(slot, embeddings[slot.table]) for slot in batch.context]
    shared = torch.cat([*context, batch.context_dense], dim=1)[batch.request_of_row]
    items = [_pooled(slot, embeddings[slot.table]) for slot in batch.items]
    return torch.cat([shared, *items, batch.item_dense], dim=1)


def _pooled(slot: SlotIndex, rows: Tensor) -> Tensor:
    """One vector a row; zero for a row without ids."""
    if slot.offsets is None:
        return rows[slot.index]
    return functional.embedding_bag(slot.index, rows, slot.offsets, mode=slot.pool)

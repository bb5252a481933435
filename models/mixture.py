"""A Multi-gate Mixture of Experts (Ma et al., KDD 2018): inputs to one logit a task. Knows no slots, no ids.

    y_k = head_k( sum_i softmax(W_k x)_i * expert_i(x) )

Gates start at zero, so that every task first sees the mean of all experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from schema.config import ModelConfig


class Mixture(nn.Module):
    """Logits of `tasks` tasks for inputs of `width` values.

    Args:
        config: layer sizes, and how likely a gate loses an expert in training.
        width: how many inputs.
        tasks: how many heads.
    """

    def __init__(self, config: ModelConfig, width: int, tasks: int) -> None:
        super().__init__()
        out = config.expert_hidden[-1]
        self.experts = nn.ModuleList(_stack((width, *config.expert_hidden)) for _ in range(config.experts))
        self.gates = nn.ModuleList(_zero_linear(width, config.experts) for _ in range(tasks))
        last = [nn.Linear((out, *config.head_hidden)[-1], 1) for _ in range(tasks)]
        self.heads = nn.ModuleList(nn.Sequential(_stack((out, *config.head_hidden)), layer) for layer in last)
        self._biases = [layer.bias for layer in last]
        self._dropout = config.gate_dropout

    def start_from(self, priors: Sequence[float]) -> None:
        """Sets each head's bias so that an untrained model predicts its task's prior, in (0, 1)."""
        for bias, prior in zip(self._biases, priors, strict=True):
            nn.init.constant_(bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Logits (n, tasks) of inputs (n, width); `noise` draws the experts that the gates lose."""
        experts = torch.stack([expert(x) for expert in self.experts], dim=1)
        logits = []
        for gate, head in zip(self.gates, self.heads, strict=True):
            weights = self._thinned(torch.softmax(gate(x), dim=1), noise)
            logits.append(head(torch.bmm(weights.unsqueeze(1), experts).squeeze(1)))
        return torch.cat(logits, dim=1)

    def _thinned(self, weights: Tensor, noise: torch.Generator | None) -> Tensor:
        """Gate weights less those lost, for which the rest make up; a row that would lose all keeps all."""
        if noise is None or not self._dropout:
            return weights
        drawn = torch.rand(weights.shape, generator=noise) >= self._dropout
        kept = weights * (drawn | ~drawn.any(dim=1, keepdim=True)).to(weights)
        return kept / kept.sum(dim=1, keepdim=True)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)

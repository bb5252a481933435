"""A Multi-gate Mixture of Experts (Ma et al., KDD 2018): inputs to one logit a task. Knows no slots, no ids.

    y_k = head_k( sum_i softmax(W_k x)_i * expert_i(x) )

Gates start at zero, so that every task first sees the mean of all experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from schema.config import ModelConfig

_SHARED: Final = 2
"""The dimensions of an input that all stacks share."""


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
        self._gate_weights = [gate.weight for gate in self.gates if isinstance(gate, nn.Linear)]
        self._biases = [layer.bias for layer in last]
        self._dropout = config.gate_dropout

    def start_from(self, priors: Sequence[float]) -> None:
        """Sets each head's bias so that an untrained model predicts its task's prior, in (0, 1)."""
        for bias, prior in zip(self._biases, priors, strict=True):
            nn.init.constant_(bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Logits (n, tasks) of inputs (n, width); `noise` draws the experts that the gates lose.

        What is alike is done at once: the experts, the gates, the heads. Many small operations cost more than
        what they do, and each gives other threads of the process a chance to stand in the way.
        """
        experts = _side_by_side(self.experts, x)
        gates = functional.linear(x, torch.cat(self._gate_weights))
        weights = torch.softmax(gates.view(len(x), len(self.gates), len(self.experts)), dim=2)
        mixed = torch.bmm(self._thinned(weights, noise), experts.transpose(0, 1))
        return _side_by_side(self.heads, mixed.transpose(0, 1)).squeeze(2).t()

    def _thinned(self, weights: Tensor, noise: torch.Generator | None) -> Tensor:
        """Gate weights (n, T, E) less those lost, for which the rest make up; not where all would be lost."""
        if noise is None or not self._dropout:
            return weights
        drawn = torch.rand(weights.shape, generator=noise) >= self._dropout
        kept = weights * (drawn | ~drawn.any(dim=2, keepdim=True)).to(weights)
        return kept / kept.sum(dim=2, keepdim=True)


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def _stack(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _side_by_side(stacks: nn.ModuleList, x: Tensor) -> Tensor:
    """(k, n, out): what k equal stacks make of an input each, (k, n, width), or of one (n, width)."""
    for layers in zip(*(stack.modules() for stack in stacks), strict=True):
        if isinstance(layers[0], nn.Linear):
            x = _linear([layer.weight for layer in layers], [layer.bias for layer in layers], x)
        elif isinstance(layers[0], nn.ReLU):
            x = torch.relu(x)
    return x


def _linear(weights: Sequence[Tensor], biases: Sequence[Tensor], x: Tensor) -> Tensor:
    if x.dim() == _SHARED:
        out = functional.linear(x, torch.cat(list(weights)), torch.cat(list(biases)))
        return out.view(len(x), len(weights), -1).transpose(0, 1)
    return torch.baddbmm(
        torch.stack(list(biases)).unsqueeze(1), x, torch.stack(list(weights)).transpose(1, 2)
    )

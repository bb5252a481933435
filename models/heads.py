"""What the logits mean: independent tasks, or an `engaged` task that the others are conditional on.

    independent    p_k = sigmoid(z_k)
    conditional    p_e = sigmoid(z_e),  p_k = p_e * sigmoid(z_k)

Negatives may have been sampled with probability pi(x), engaged rows all kept. Then the odds in the sample are
the true odds over pi, so `engaged` trains on z_e - log pi and serves z_e. The others train on engaged rows
only, where nothing was sampled away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from models.losses import log_loss
from schema.config import Config


@dataclass(frozen=True, slots=True)
class Targets:
    """What n rows teach: labels and mask (n, T); log_keep (n,), the log-probability of having been sampled.

    weights (n,), mean 1, or None for all alike: what each row counts for. retract (n, T), or None for none:
    1 where a pair was a negative before, which it takes back. Labels say what is known where the mask is 0.
    """

    labels: Tensor
    mask: Tensor
    log_keep: Tensor
    weights: Tensor | None = None
    retract: Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        """The same on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        retract = None if self.retract is None else self.retract.to(device)
        return Targets(
            self.labels.to(device), self.mask.to(device), self.log_keep.to(device), weights, retract
        )


@dataclass(frozen=True, slots=True)
class Heads:
    """The tasks' heads; `engaged` is the index of the task that the others are conditional on, or None."""

    engaged: int | None = None

    @classmethod
    def of(cls, config: Config) -> Self:
        """As the configuration names them."""
        names = [task.name for task in config.tasks]
        engaged = config.model.engaged
        return cls(None if engaged is None else names.index(engaged))

    def served(self, logits: Tensor) -> Tensor:
        """The probabilities (n, T) that logits (n, T) stand for."""
        alone = torch.sigmoid(logits)
        if self.engaged is None:
            return alone
        engaged = alone[:, self.engaged : self.engaged + 1]
        product = alone * engaged
        product[:, self.engaged] = engaged[:, 0]
        return product

    def priors(self, rates: Sequence[float]) -> list[float]:
        """What each head has to predict at first, for the served rates (T,) to come out."""
        if self.engaged is None:
            return list(rates)
        base = rates[self.engaged]
        return [r if k == self.engaged else min(r / base, 0.99) for k, r in enumerate(rates)]

    def loss(self, logits: Tensor, targets: Targets) -> Tensor:
        """The log loss of logits (n, T), summed over tasks and averaged over rows."""
        mask, retract = targets.mask, targets.retract
        if self.engaged is not None:
            at = torch.arange(logits.shape[1], device=logits.device) == self.engaged
            logits = torch.where(at, logits - targets.log_keep.unsqueeze(1), logits)
            # what nobody engaged with says nothing of what the engaged do next
            idle = mask[:, self.engaged] * (1 - targets.labels[:, self.engaged])
            mask = torch.where(at, mask, mask * (1 - idle).unsqueeze(1))
            if retract is not None:
                # engaged after all: its other heads, which never paid a negative, begin to count
                begun = retract[:, self.engaged].unsqueeze(1)
                mask = torch.where(at, mask, torch.maximum(mask, begun))
                retract = torch.where(at, retract, retract * (1 - begun))
        return log_loss(logits, targets.labels, mask, targets.weights, retract)

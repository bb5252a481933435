"""Losses of the ranker, and the weights of rows that were shown with unequal odds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def log_loss(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    retract: Tensor | None = None,
) -> Tensor:
    """The log loss over the (row, task) pairs whose mask is 1, summed over tasks, averaged over rows.

    The first three have shape (n, tasks), as has `retract`; `weights` (n,) is what each row counts for. The
    sum over tasks keeps a head's step size independent of how many other heads there are; a row that speaks
    for no task still counts in n.

    Where `retract` is 1 the pair was a negative before, whose loss is taken back: a late positive costs its
    own loss less that one, which is minus the logit. The two together are the true label's loss.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none") * mask
    if retract is not None:
        losses = losses - functional.softplus(logits) * retract
    if weights is not None:
        losses = losses * weights.unsqueeze(1)
    return losses.sum() / len(logits)


def propensity_weights(propensities: Tensor, clip: float) -> Tensor:
    """Inverse propensity weights (n,), clipped and self-normalised: min(1 / p, clip) over its mean.

    Clipping bounds the variance at the price of a bias; dividing by the mean makes the weights sum to n
    whatever the propensities (Swaminathan and Joachims, NeurIPS 2015).

    Args:
        propensities: the odds with which each row was shown, in (0, 1].
        clip: the largest weight before normalising, at least 1.

    Raises:
        ValueError: one of them is out of bounds.
    """
    if clip < 1:
        raise ValueError(f"clip: {clip}; legal is at least 1")
    if not bool(((propensities > 0) & (propensities <= 1)).all()):
        raise ValueError("propensities: one is not in (0, 1]; legal is the odds of having been shown")
    weights = (1 / propensities).clamp(max=clip)
    return weights / weights.mean()


def row_weights(propensities: Tensor, clip: float) -> Tensor:
    """Weights (n,) that sum to n: `propensity_weights` among the rows that have one, 1 for the others, at 0.

    So what is not known counts as the average row does, however many rows have propensities.
    """
    known = propensities != 0
    weights = torch.ones_like(propensities)
    weights[known] = propensity_weights(propensities[known], clip)
    return weights

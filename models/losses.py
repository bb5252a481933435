"""Losses of the ranker."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def masked_log_loss(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The log loss over the (row, task) pairs whose mask is 1, summed over tasks, averaged over rows.

    All three have shape (n, tasks). The sum over tasks keeps a head's step size independent of how many
    other heads there are; a row that speaks for no task still counts in n.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (losses * mask).sum() / len(logits)

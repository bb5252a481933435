"""The linear softmax over all items that reranks a beam's finds, trained jointly, on sampled candidates.

score(x, v) = x @ w_v + b_v          p(v | x) = softmax over v
"""

from __future__ import annotations

import torch
from torch import Tensor


def sampled_softmax_loss(  # noqa: PLR0917 - three of users and pairs, three of candidates
    users: Tensor, vectors: Tensor, bias: Tensor, log_q: Tensor, rows: Tensor, positives: Tensor
) -> Tensor:
    """-log p(positive | user) of m pairs, shape (m,), the softmax taken over c distinct candidates.

    A candidate that is among them with chance q stands for 1/q of its kind, so its logit is less log q
    (Bengio and Senécal, 2008; in-batch: Yi et al., RecSys 2019); with log_q = 0 and all items it is the full
    softmax.

    Args:
        users: (n, dim).
        vectors: of the candidates, (c, dim).
        bias: of the candidates, (c,).
        log_q: of the candidates, (c,).
        rows: the user of each pair, i64 (m,).
        positives: the candidate of each pair, i64 (m,).
    """
    logits = torch.addmm(bias - log_q, users, vectors.T)
    return torch.logsumexp(logits, dim=1)[rows] - logits.view(-1)[rows * len(vectors) + positives]

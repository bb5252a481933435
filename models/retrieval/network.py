"""The structure network: D layers of K-way softmax, each over [user; embeddings of the nodes chosen so far].

p(c | x) = prod_d softmax(V_d relu(W_d [x; e_1(c_1); …; e_(d-1)(c_(d-1))]))_(c_d)
loss(x, v) = -log sum_j p(path_j(v) | x)                          (Gao et al., arXiv 2007.07203, eq. 1 and 2)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.retrieval.weights import BeamWeights


class StructureNetwork(nn.Module):
    """Probabilities of paths.

    Args:
        dim: the width of a user's vector.
        nodes: K, the nodes of a layer.
        depth: D, the number of layers.
        hidden: the hidden units of a layer, and the width of a node's embedding.
    """

    def __init__(self, dim: int, nodes: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.nodes, self.depth = dim, nodes, depth
        self.embeddings = nn.ModuleList(nn.Embedding(nodes, hidden) for _ in range(depth - 1))
        self.inputs = nn.ModuleList(nn.Linear(dim + d * hidden, hidden) for d in range(depth))
        self.outputs = nn.ModuleList(nn.Linear(hidden, nodes) for _ in range(depth))

    def log_probs(self, users: Tensor, rows: Tensor, paths: Tensor) -> Tensor:
        """log p(path | user), shape (m,), of codes `paths` i64 (m,) for `users` (n, dim) at `rows` i64 (m,).

        A layer's softmax is computed once for each distinct (user, prefix).
        """
        total = users.new_zeros(len(paths))
        for d in range(self.depth):
            rest = self.nodes ** (self.depth - d - 1)
            prefixes = self.nodes**d
            keys, back = torch.unique(rows * prefixes + paths // (rest * self.nodes), return_inverse=True)
            logits = self._logits(d, users, keys // prefixes, keys % prefixes)
            # the picked logit less its normaliser: the softmax itself is never stored
            picked = logits.view(-1)[back * self.nodes + paths // rest % self.nodes]
            total = total + picked - torch.logsumexp(logits, dim=1)[back]
        return total

    def _logits(self, layer: int, users: Tensor, rows: Tensor, prefixes: Tensor) -> Tensor:
        weight, bias = self.inputs[layer].weight, self.inputs[layer].bias
        hidden = functional.linear(users, weight[:, : self.dim], bias)[rows]
        for i, table in enumerate(self._node_tables(layer)):
            hidden = hidden + table[prefixes // self.nodes ** (layer - 1 - i) % self.nodes]
        logits: Tensor = self.outputs[layer](torch.relu(hidden))
        return logits

    def _node_tables(self, layer: int) -> list[Tensor]:
        """What each node of each earlier layer adds to the hidden units, (K, hidden) a layer."""
        parts = self.inputs[layer].weight[:, self.dim :].split(self.inputs[layer].out_features, dim=1)
        return [self.embeddings[i].weight @ parts[i].T for i in range(layer)]

    @torch.no_grad()
    def export(self) -> BeamWeights:
        """The weights for a beam search, as of now."""
        tables = [table for d in range(self.depth) for table in self._node_tables(d)]
        hidden = self.inputs[0].out_features
        stacked = torch.stack(tables) if tables else torch.empty(0, self.nodes, hidden)
        parts = (
            torch.stack([layer.weight[:, : self.dim].T for layer in self.inputs]),
            torch.stack([layer.bias for layer in self.inputs]),
            stacked,
            torch.stack([layer.weight.T for layer in self.outputs]),
            torch.stack([layer.bias for layer in self.outputs]),
        )
        arrays = (np.ascontiguousarray(part.detach().cpu().numpy(), np.float32).copy() for part in parts)
        return BeamWeights(*arrays)


def structure_loss(network: StructureNetwork, users: Tensor, rows: Tensor, paths: Tensor) -> Tensor:
    """-log sum_j p(path_j | user) of m pairs, shape (m,).

    `users` (n, dim); `rows` i64 (m,) is the user of each pair; `paths` i64 (m, J) are the codes of its item's paths,
    -1 for none. A pair whose item lies on no path has loss 0.
    """
    known = paths >= 0
    at = rows.unsqueeze(1).expand_as(paths)[known]
    found = network.log_probs(users, at, paths[known])
    log_probs = users.new_full(paths.shape, -torch.inf).masked_scatter(known, found)
    placed = known.any(dim=1)
    # a row of -inf alone would have no gradient but NaN
    return (
        -torch.logsumexp(log_probs[placed], dim=1)
        .new_zeros(len(rows))
        .masked_scatter(placed, torch.logsumexp(log_probs[placed], dim=1))
    )

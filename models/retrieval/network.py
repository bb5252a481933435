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


class _Layer(nn.Module):
    """The softmax of layer `depth`, and what embeddings it has of the nodes of the layers before."""

    def __init__(self, dim: int, nodes: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(dim + depth * hidden, hidden)
        self.leave = nn.Linear(hidden, nodes)
        self._dim, self._hidden = dim, hidden

    def user_part(self, users: Tensor) -> Tensor:
        """What users (n, dim) add to the hidden units, (n, hidden)."""
        return functional.linear(users, self.enter.weight[:, : self._dim], self.enter.bias)

    def node_tables(self, embeddings: list[Tensor]) -> list[Tensor]:
        """What each node of each layer before adds to the hidden units, (K, hidden) a layer."""
        ends = range(self._dim, self.enter.in_features, self._hidden)
        parts = [self.enter.weight[:, end : end + self._hidden] for end in ends]
        return [table @ part.T for table, part in zip(embeddings, parts, strict=False)]


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
        self.hidden = hidden
        self._tables = [nn.Embedding(nodes, hidden) for _ in range(depth - 1)]
        self._layers = [_Layer(dim, nodes, d, hidden) for d in range(depth)]
        # lists of their own types beside torch's, which forget what they hold
        self.embeddings, self.layers = nn.ModuleList(self._tables), nn.ModuleList(self._layers)

    def log_probs(self, users: Tensor, rows: Tensor, paths: Tensor) -> Tensor:
        """Log p(path | user), shape (m,), of codes `paths` i64 (m,) for `users` (n, dim) at `rows` i64 (m,).

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

    def _logits(self, depth: int, users: Tensor, rows: Tensor, prefixes: Tensor) -> Tensor:
        layer = self._layers[depth]
        hidden = layer.user_part(users)[rows]
        for i, table in enumerate(self._node_tables(depth)):
            hidden = hidden + table[prefixes // self.nodes ** (depth - 1 - i) % self.nodes]
        logits: Tensor = layer.leave(torch.relu(hidden))
        return logits

    def _node_tables(self, depth: int) -> list[Tensor]:
        return self._layers[depth].node_tables([table.weight for table in self._tables])

    @torch.no_grad()
    def export(self) -> BeamWeights:
        """The weights for a beam search, as of now."""
        tables = [table for d in range(self.depth) for table in self._node_tables(d)]
        parts = (
            torch.stack([layer.enter.weight[:, : self.dim].T for layer in self._layers]),
            torch.stack([layer.enter.bias for layer in self._layers]),
            torch.stack(tables) if tables else torch.empty(0, self.nodes, self.hidden),
            torch.stack([layer.leave.weight.T for layer in self._layers]),
            torch.stack([layer.leave.bias for layer in self._layers]),
        )
        return BeamWeights(*(np.array(part.cpu().numpy(), np.float32, order="C") for part in parts))


def structure_loss(network: StructureNetwork, users: Tensor, rows: Tensor, paths: Tensor) -> Tensor:
    """-log sum_j p(path_j | user) of m pairs, shape (m,).

    `users` (n, dim); `rows` i64 (m,) is the user of each pair; `paths` i64 (m, J) are the codes of its item's
    paths, -1 for none. A pair whose item lies on no path has loss 0.
    """
    known = paths >= 0
    at = rows.unsqueeze(1).expand_as(paths)[known]
    found = network.log_probs(users, at, paths[known])
    log_probs = users.new_full(paths.shape, -torch.inf).masked_scatter(known, found)
    placed = known.any(dim=1)
    # a row of nothing but -inf would have no gradient but NaN
    likelihoods = torch.logsumexp(log_probs[placed], dim=1)
    return users.new_zeros(len(rows)).masked_scatter(placed, -likelihoods)

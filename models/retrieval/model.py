"""Deep Retrieval as one module: user tower, structure network and linear softmax, trained by one loss.

Item and user vectors come from outside (they are rows of tables); where items lie is `learning`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.retrieval.network import StructureNetwork, structure_loss
from models.retrieval.reranker import sampled_softmax_loss
from models.retrieval.user import UserTower
from models.retrieval.weights import BeamWeights
from schema.config import RetrievalConfig


@dataclass(frozen=True, slots=True)
class Candidates:
    """The c distinct items that a batch's softmax is taken over.

    `vectors` (c, dim), `bias` (c,), and `log_q` (c,), the log of the chance to be among them.
    """

    vectors: Tensor
    bias: Tensor
    log_q: Tensor


@dataclass(frozen=True, slots=True)
class Pairs:
    """m engagements, i64: the user's row in the batch, the item's among the candidates, its paths (m, J)."""

    users: Tensor
    candidates: Tensor
    paths: Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """By pair, shape (m,): of the structure, -log sum_j p(path_j | x), and of the softmax, -log p(v | x)."""

    structure: Tensor
    softmax: Tensor

    def total(self) -> Tensor:
        """What training minimises: both, averaged over the pairs."""
        return (self.structure + self.softmax).mean()


class DeepRetrieval(nn.Module):
    """The trained part of retrieval.

    Args:
        config: sizes.
        dim: the width of item embeddings and user vectors.
    """

    def __init__(self, config: RetrievalConfig, dim: int) -> None:
        super().__init__()
        self.tower = UserTower(dim, config.hidden, config.pool)
        self.structure = StructureNetwork(dim, config.nodes, config.depth, config.hidden)

    def users(self, history: Tensor, starts: Tensor, own: Tensor | None = None) -> Tensor:
        """Vectors of users (n, dim); see `UserTower.forward`."""
        users: Tensor = self.tower(history, starts, own)
        return users

    def losses(self, users: Tensor, candidates: Candidates, pairs: Pairs) -> Losses:
        """Both losses of a batch for `users` (n, dim)."""
        c = candidates
        return Losses(
            structure_loss(self.structure, users, pairs.users, pairs.paths),
            sampled_softmax_loss(users, c.vectors, c.bias, c.log_q, pairs.users, pairs.candidates),
        )

    def export(self) -> BeamWeights:
        """The structure network for a beam search, as of now; the tower has an `export` of its own."""
        return self.structure.export()

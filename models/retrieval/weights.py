"""The structure network's weights as a beam search reads them: plain arrays, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schema.records import F32


@dataclass(frozen=True, slots=True)
class BeamWeights:
    """Weights of D layers of K nodes with H hidden units, for users of `dim` floats; all float32, contiguous.

    Layer d has logits out[d].T @ relu(user_in[d].T @ x + user_bias[d] + sum_i node_in[d(d-1)/2 + i, c_i]) +
    out_bias[d], where c_i, i < d, are the nodes chosen so far.

    Shapes: user_in (D, dim, H), user_bias (D, H), node_in (D(D-1)/2, K, H), out (D, H, K), out_bias (D, K).
    """

    user_in: F32
    user_bias: F32
    node_in: F32
    out: F32
    out_bias: F32

    def __post_init__(self) -> None:
        depth, dim, hidden = self.user_in.shape
        nodes = self.out_bias.shape[1]
        pairs = depth * (depth - 1) // 2
        wanted = {
            "user_in": (depth, dim, hidden),
            "user_bias": (depth, hidden),
            "node_in": (pairs, nodes, hidden),
            "out": (depth, hidden, nodes),
            "out_bias": (depth, nodes),
        }
        for name, shape in wanted.items():
            array: F32 = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise ValueError(f"{name}: {array.dtype} {array.shape}; legal is float32 {shape}, contiguous")

    @property
    def depth(self) -> int:
        """D, the number of layers."""
        return len(self.out_bias)

    @property
    def nodes(self) -> int:
        """K, the number of nodes in a layer."""
        return int(self.out_bias.shape[1])

    @property
    def dim(self) -> int:
        """The width of a user's vector."""
        return int(self.user_in.shape[1])

    @property
    def paths(self) -> int:
        """How many paths there are, K^D."""
        return int(self.nodes**self.depth)

    def arrays(self) -> tuple[F32, F32, F32, F32, F32]:
        """All five, in the order in which the kernels take them."""
        return self.user_in, self.user_bias, self.node_in, self.out, self.out_bias

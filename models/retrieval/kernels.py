"""The compiled beam search.

Shapes: D layers, K nodes, H hidden units, `dim` floats a user. The code of a prefix is its nodes as the
    digits of a number of base K, so the code of a whole path lies below K^D. Weights are as
    `weights.BeamWeights` lays them out.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from models.retrieval.heap import code_of, key_of, offer, order, score_of
from models.retrieval.products import product
from runtime.compiled import F32, I64, U64, VOID, made, taken
from runtime.compiled import fused_kernel as kernel

_IN1, _IN2, _IN3 = taken(F32, 1), taken(F32, 2), taken(F32, 3)
_OUT1, _OUT2 = made(F32, 1), made(F32, 2)
_INT2 = made(types.int32, 2)
_CODES, _KEYS = made(I64, 1), made(U64, 1)
WEIGHTS: Final = (_IN3, _IN2, _IN3, _IN3, _IN2)
"""The types of `weights.BeamWeights.arrays()`."""
_LOWEST: Final = np.float32(-np.inf)
_ROUNDING: Final = np.float32(0.01)
"""Far more than a log-probability is off by."""


@kernel(F32(_OUT1))
def _log_sum_exp(logits: Any) -> Any:
    """The log of sum(exp(logits)) to about 1e-6, in vector registers.

    exp(x) = 2^n 2^f, where n is the whole part of x / log(2): 2^n by its bits, 2^f by its Taylor polynomial.
    """
    top = logits[0]
    for k in range(1, logits.shape[0]):
        top = max(top, logits[k])
    total = np.float32(0.0)
    for k in range(logits.shape[0]):
        scaled = max((logits[k] - top) * np.float32(1.4426950408889634), np.float32(-126.0))
        above = np.int32(scaled + np.float32(126.5))
        f = (scaled - np.float32(above - np.int32(126))) * np.float32(0.6931471805599453)
        series = np.float32(1.0) + f * np.float32(1 / 5) * (np.float32(1.0) + f * np.float32(1 / 6))
        series = np.float32(1.0) + f * np.float32(1 / 3) * (np.float32(1.0) + f * np.float32(1 / 4) * series)
        series = np.float32(1.0) + f * (np.float32(1.0) + f * np.float32(1 / 2) * series)
        total += np.int32(np.int32(above + np.int32(1)) << np.int32(23)).view(np.float32) * series
    return top + np.float32(np.log(total))


@kernel(VOID(_IN1, _IN3, _IN3, _IN2, I64, I64, _OUT1, _OUT1))
def _logits(
    user: Any, node_in: Any, out: Any, out_bias: Any, layer: Any, code: Any, hidden: Any, logits: Any
) -> None:
    """Logits of the nodes of `layer` after the prefix `code`; `user` is the user's part, `hidden` scratch."""
    nodes = out_bias.shape[1]
    for h in range(hidden.shape[0]):
        hidden[h] = user[h]
    rest = code
    for i in range(layer - 1, -1, -1):
        table = node_in[layer * (layer - 1) // 2 + i]
        node = rest % nodes
        rest //= nodes
        for h in range(hidden.shape[0]):
            hidden[h] += table[node, h]
    for h in range(hidden.shape[0]):
        hidden[h] = max(hidden[h], np.float32(0.0))
    product(hidden, out[layer], out_bias[layer], logits)


@kernel(VOID(_IN1, _IN3, _IN2, _OUT2))
def user_parts(x: Any, user_in: Any, user_bias: Any, parts: Any) -> None:
    """The user's part of every layer's hidden units, (D, H)."""
    for layer in range(parts.shape[0]):
        product(x, user_in[layer], user_bias[layer], parts[layer])


@kernel(I64(_IN2, _IN3, _IN3, _IN2, I64, _CODES, _OUT1, _KEYS))
def best_paths(
    parts: Any, node_in: Any, out: Any, out_bias: Any, beam: Any, codes: Any, scores: Any, keys: Any
) -> Any:
    """The best `beam` paths of one user, best first, into `codes` and `scores`; how many there are.

    `parts` are the user's, `keys` is scratch of `beam`.
    """
    depth, nodes = out_bias.shape
    hidden = np.empty(parts.shape[1], np.float32)
    logits = np.empty(nodes, np.float32)
    codes[0], scores[0], size = 0, np.float32(0.0), 1
    for layer in range(depth):
        kept, least = 0, _LOWEST
        for p in range(size):
            # a path is no more probable than its prefix, and prefixes come best first
            if kept == beam and scores[p] + _ROUNDING < least:
                break
            _logits(parts[layer], node_in, out, out_bias, layer, codes[p], hidden, logits)
            base = scores[p] - _log_sum_exp(logits)
            for k in range(nodes):
                score = base + logits[k]
                if kept < beam or score >= least:
                    kept = offer(keys, kept, beam, key_of(score, codes[p] * nodes + k))
                    if kept == beam:
                        least = score_of(keys[0])
        order(keys, kept)
        for p in range(kept):
            codes[p], scores[p] = code_of(keys[p]), score_of(keys[p])
        size = kept
    return size


@kernel(VOID(_IN2, *WEIGHTS, I64, _INT2, _OUT2))
def search(
    users: Any,
    user_in: Any,
    user_bias: Any,
    node_in: Any,
    out: Any,
    out_bias: Any,
    beam: Any,
    paths: Any,
    log_probs: Any,
) -> None:
    """The best paths of n users, best first, into `paths` i32 (n, beam) and `log_probs` (n, beam).

    `beam` is at most K^D, so that every row is full.
    """
    parts = np.empty((out_bias.shape[0], user_bias.shape[1]), np.float32)
    codes, scores, keys = np.empty(beam, np.int64), np.empty(beam, np.float32), np.empty(beam, np.uint64)
    for n in range(users.shape[0]):
        user_parts(users[n], user_in, user_bias, parts)
        size = best_paths(parts, node_in, out, out_bias, beam, codes, scores, keys)
        for p in range(size):
            paths[n, p], log_probs[n, p] = codes[p], scores[p]

"""The compiled beam search, the walk of the inverted index, and the reranking of what it finds.

Shapes: D layers, K nodes, H hidden units, `dim` floats a user. The code of a prefix is its nodes as the
    digits of a number of base K, so the code of a whole path lies below K^D. Weights are as
    `weights.BeamWeights` lays them out.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from models.retrieval.heap import offer, order
from runtime.compiled import F32, I64, VOID, inlined, made, taken
from runtime.compiled import fused_kernel as kernel
from runtime.prefetch import LINE_FLOATS, prefetch

_IN1, _IN2, _IN3 = taken(F32, 1), taken(F32, 2), taken(F32, 3)
_OUT1, _OUT2 = made(F32, 1), made(F32, 2)
_INT, _INT_IN = types.int32, taken(types.int32, 1)
_INT1, _INT2 = made(_INT, 1), made(_INT, 2)
_CODES = made(I64, 1)
_WEIGHTS = (_IN3, _IN2, _IN3, _IN3, _IN2)
_AHEAD: Final = 8
_ROUNDING: Final = np.float32(0.01)
"""Far more than a log-probability is off by."""
_ONE: Final = np.uint64(1)
_SPREAD: Final = np.uint64(0x9E3779B1)
_SPREAD_BITS: Final = np.uint64(15)


@kernel(VOID(_IN1, _IN2, I64, _OUT1))
def _add_product(values: Any, matrix: Any, count: Any, into: Any) -> None:
    """`into` += `values[:count]` @ `matrix`, four rows at a time so that `into` is loaded once for four."""
    width = into.shape[0]
    whole = count - count % 4
    for i in range(0, whole, 4):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        for k in range(width):
            into[k] += a * matrix[i, k] + b * matrix[i + 1, k] + c * matrix[i + 2, k] + d * matrix[i + 3, k]
    for i in range(whole, count):
        for k in range(width):
            into[k] += values[i] * matrix[i, k]


@kernel(F32(_OUT1, _INT1))
def _log_sum_exp(logits: Any, scratch: Any) -> Any:
    """The log of sum(exp(logits)) to about 1e-6, in vector registers; `scratch` int32 (K,).

    exp(x) = 2^n 2^f, where n is the whole part of x / log(2): 2^n by its bits, 2^f by its Taylor polynomial.
    """
    top = logits[0]
    for k in range(1, logits.shape[0]):
        top = max(top, logits[k])
    powers = scratch.view(np.float32)
    for k in range(logits.shape[0]):
        scaled = max((logits[k] - top) * np.float32(1.4426950408889634), np.float32(-126.0))
        scratch[k] = np.int32(np.int32(scaled + np.float32(126.5)) + np.int32(1)) << np.int32(23)
    total = np.float32(0.0)
    for k in range(logits.shape[0]):
        scaled = max((logits[k] - top) * np.float32(1.4426950408889634), np.float32(-126.0))
        whole = np.float32(np.int32(scaled + np.float32(126.5)) - np.int32(126))
        f = (scaled - whole) * np.float32(0.6931471805599453)
        series = np.float32(1.0) + f * np.float32(1 / 5) * (np.float32(1.0) + f * np.float32(1 / 6))
        series = np.float32(1.0) + f * np.float32(1 / 3) * (np.float32(1.0) + f * np.float32(1 / 4) * series)
        series = np.float32(1.0) + f * (np.float32(1.0) + f * np.float32(1 / 2) * series)
        total += powers[k] * series
    return top + np.float32(np.log(total))


@kernel(VOID(_IN1, _IN3, _IN3, _IN2, I64, I64, _OUT1, _OUT1, _OUT1))
def _logits(
    user: Any,
    node_in: Any,
    out: Any,
    out_bias: Any,
    layer: Any,
    code: Any,
    hidden: Any,
    active: Any,
    logits: Any,
) -> None:
    """Logits of the nodes of `layer` after the prefix `code`; `user` is the user's part."""
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
        active[h] = max(hidden[h], np.float32(0.0))
    for k in range(nodes):
        logits[k] = out_bias[layer, k]
    _add_product(active, out[layer], hidden.shape[0], logits)


@kernel(VOID(_IN1, _IN3, _IN2, _OUT2))
def _user_parts(x: Any, user_in: Any, user_bias: Any, parts: Any) -> None:
    """The user's part of every layer's hidden units, (D, H)."""
    for layer in range(parts.shape[0]):
        for h in range(parts.shape[1]):
            parts[layer, h] = user_bias[layer, h]
        _add_product(x, user_in[layer], x.shape[0], parts[layer])


@kernel(I64(_IN2, _IN3, _IN3, _IN2, I64, _CODES, _OUT1, _CODES, _OUT1))
def _search(
    parts: Any,
    node_in: Any,
    out: Any,
    out_bias: Any,
    beam: Any,
    codes: Any,
    scores: Any,
    next_codes: Any,
    next_scores: Any,
) -> Any:
    """The best `beam` paths of one user, best first, into `codes` and `scores`; how many there are."""
    depth, nodes = out_bias.shape
    hidden = np.empty(parts.shape[1], np.float32)
    active = np.empty(parts.shape[1], np.float32)
    logits = np.empty(nodes, np.float32)
    scratch = np.empty(nodes, np.int32)
    codes[0], scores[0], size = 0, np.float32(0.0), 1
    for layer in range(depth):
        kept = 0
        for p in range(size):
            # a path is no more probable than its prefix, and prefixes come best first
            if kept == beam and scores[p] + _ROUNDING < next_scores[0]:
                break
            _logits(parts[layer], node_in, out, out_bias, layer, codes[p], hidden, active, logits)
            base = scores[p] - _log_sum_exp(logits, scratch)
            for k in range(nodes):
                score = base + logits[k]
                if kept < beam or score >= next_scores[0]:
                    kept = offer(next_scores, next_codes, kept, beam, score, codes[p] * nodes + k)
        order(next_scores, next_codes, kept)
        for p in range(kept):
            codes[p], scores[p] = next_codes[p], next_scores[p]
        size = kept
    return size


@kernel(VOID(_IN2, *_WEIGHTS, I64, _INT2, _OUT2))
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
    codes, next_codes = np.empty(beam, np.int64), np.empty(beam, np.int64)
    scores, next_scores = np.empty(beam, np.float32), np.empty(beam, np.float32)
    for n in range(users.shape[0]):
        _user_parts(users[n], user_in, user_bias, parts)
        size = _search(parts, node_in, out, out_bias, beam, codes, scores, next_codes, next_scores)
        for p in range(size):
            paths[n, p], log_probs[n, p] = codes[p], scores[p]


@kernel(I64(_INT_IN, I64, taken(I64, 1), _INT_IN, I64, _INT1, _INT1))
def collect(paths: Any, count: Any, offsets: Any, members: Any, limit: Any, seen: Any, rows: Any) -> Any:
    """The distinct items on the first `count` of `paths`, in that order, at most `limit`; how many.

    `seen` is a scratch hash table of a power of two above `limit` entries.
    """
    mask = np.uint64(seen.shape[0] - 1)
    seen[:] = -1
    found = np.uint64(0)
    for p in range(np.uint64(count)):
        path = np.uint64(paths[p])
        for at in range(np.uint64(offsets[path]), np.uint64(offsets[path + _ONE])):
            row = members[at]
            place = (np.uint64(row) * _SPREAD >> _SPREAD_BITS) & mask
            while seen[place] != -1 and seen[place] != row:
                place = (place + _ONE) & mask
            if seen[place] == -1:
                seen[place] = row
                rows[found] = row
                found += _ONE
                if found == np.uint64(limit):
                    return np.int64(found)
    return np.int64(found)


@inlined
def _fetch(flat: Any, bias: Any, row: Any, width: Any) -> None:
    for column in range(0, width, LINE_FLOATS):
        prefetch(flat, row * width + column)
    prefetch(bias, row)


@kernel(I64(_IN1, _INT_IN, I64, _IN2, _IN1, I64, _CODES, _OUT1))
def rerank(x: Any, rows: Any, count: Any, vectors: Any, bias: Any, top: Any, best: Any, scores: Any) -> Any:
    """The `top` rows by x @ vectors[row] + bias[row], best first, into `best` and `scores`; how many.

    A row is asked for `_AHEAD` rows before its turn: more at once than the core can wait for are asked twice.
    """
    kept, flat, width = 0, vectors.reshape(-1), np.int64(vectors.shape[1])
    for i in range(min(_AHEAD, count)):
        _fetch(flat, bias, np.int64(rows[i]), width)
    for i in range(np.uint64(count)):
        if i + np.uint64(_AHEAD) < np.uint64(count):
            _fetch(flat, bias, np.int64(rows[i + np.uint64(_AHEAD)]), width)
        row = np.uint64(rows[i])
        start, score = row * np.uint64(width), bias[row]
        for d in range(np.uint64(width)):
            score += x[d] * flat[start + d]
        if kept < top or score >= scores[0]:
            kept = offer(scores, best, kept, top, score, np.int64(row))
    order(scores, best, kept)
    return kept


@kernel(VOID(_IN2, *_WEIGHTS, I64, taken(I64, 1), _INT_IN, I64, _IN2, _IN1, _INT2, _OUT2, _INT1, _INT1))
def retrieve(
    users: Any,
    user_in: Any,
    user_bias: Any,
    node_in: Any,
    out: Any,
    out_bias: Any,
    beam: Any,
    offsets: Any,
    members: Any,
    limit: Any,
    vectors: Any,
    bias: Any,
    best: Any,
    scores: Any,
    counts: Any,
    reranked: Any,
) -> None:
    """Beam search, walk and rerank of n users in one go: `best` and `scores` are (n, top).

    `counts` (n,) says how many of a row were filled, `reranked` (n,) how many items were scored for it.
    """
    depth, top = out_bias.shape[0], best.shape[1]
    parts = np.empty((depth, user_bias.shape[1]), np.float32)
    codes, next_codes = np.empty(beam, np.int64), np.empty(beam, np.int64)
    beams, next_beams = np.empty(beam, np.float32), np.empty(beam, np.float32)
    paths = np.empty(beam, np.int32)
    table = 2
    while table < 2 * limit:
        table *= 2
    seen, rows = np.empty(table, np.int32), np.empty(limit, np.int32)
    top_rows, top_scores = np.empty(top, np.int64), np.empty(top, np.float32)
    for n in range(users.shape[0]):
        _user_parts(users[n], user_in, user_bias, parts)
        size = _search(parts, node_in, out, out_bias, beam, codes, beams, next_codes, next_beams)
        for p in range(size):
            paths[p] = codes[p]
        found = collect(paths, size, offsets, members, limit, seen, rows)
        kept = rerank(users[n], rows, found, vectors, bias, top, top_rows, top_scores)
        counts[n], reranked[n] = kept, found
        for i in range(kept):
            best[n, i], scores[n, i] = top_rows[i], top_scores[i]

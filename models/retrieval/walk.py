"""The compiled walk of the inverted index, and the reranking of what lies there.

An item's score is x @ vector + bias. All items that a walk meets are scored by their codes first, which lie
where it goes (`postings`); that tells between which bounds a score is. Only those that can still be among the
best are scored by their vectors, which may be anywhere. The outcome is that of scoring all by their vectors.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import types

from models.retrieval.codes import doubt, product_of_codes, user_codes
from models.retrieval.heap import code_of, key_of, offer, order, score_of
from models.retrieval.kernels import WEIGHTS, best_paths, user_parts
from runtime.compiled import F32, I64, U64, VOID, inlined, made, taken
from runtime.compiled import fused_kernel as kernel
from runtime.prefetch import LINE_FLOATS, prefetch

_IN1, _IN2 = taken(F32, 1), taken(F32, 2)
_OUT1, _OUT2 = made(F32, 1), made(F32, 2)
_INT_IN = taken(types.int32, 1)
_INT1, _INT2 = made(types.int32, 1), made(types.int32, 2)
_BYTES = taken(types.int8, 1)
_SHORTS_IN, _SHORTS = taken(types.int16, 1), made(types.int16, 1)
_CODES, _KEYS = made(I64, 1), made(U64, 1)

_AHEAD: Final = 8
"""Rows that are on their way from memory at once: of more than the core can wait for some are asked twice."""
_AHEAD_CODED: Final = 16
_ONE: Final = np.uint64(1)
_SPREAD: Final = np.uint64(0x9E3779B1)
_SPREAD_BITS: Final = np.uint64(15)
_LOWEST: Final = np.float32(-np.inf)


@kernel(I64(_CODES, I64, taken(I64, 1), _INT_IN, I64, _INT1, _CODES))
def collect(paths: Any, count: Any, offsets: Any, members: Any, limit: Any, seen: Any, places: Any) -> Any:
    """Where in `members` the distinct items on the first `count` of `paths` are, in that order; how many.

    They are at most `limit`; `seen` is a scratch hash table of a power of two above `limit` entries.
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
                places[found] = at
                found += _ONE
                if found == np.uint64(limit):
                    return np.int64(found)
    return np.int64(found)


@kernel(VOID(_SHORTS_IN, _IN1, _CODES, I64, _BYTES, _IN2, _OUT1, _OUT1))
def _bounds(
    user: Any, user_terms: Any, places: Any, count: Any, codes: Any, terms: Any, lows: Any, highs: Any
) -> None:
    """Between which bounds the scores of the items at the first `count` of `places` are."""
    width = np.int64(user.shape[0])
    for i in range(np.uint64(count)):
        if i + np.uint64(_AHEAD_CODED) < np.uint64(count):
            prefetch(codes, places[i + np.uint64(_AHEAD_CODED)] * width)
        at = np.uint64(places[i])
        unit, bias = terms[at, 0], terms[at, 1]
        score = product_of_codes(user, codes, places[i] * width) * user_terms[0] * unit + bias
        off = doubt(user_terms, unit, bias)
        lows[i], highs[i] = score - off, score + off


@kernel(F32(_OUT1, I64, I64, _KEYS))
def _least(lows: Any, count: Any, top: Any, keys: Any) -> Any:
    """The `top`-th best of the first `count` of `lows`; NaN counts as the worst."""
    kept, least = 0, _LOWEST
    for i in range(np.uint64(count)):
        if kept < top or lows[i] > least:
            kept = offer(keys, kept, top, key_of(lows[i], np.int64(i)))
            if kept == top:
                least = score_of(keys[0])
    return least


@kernel(I64(_IN1, _CODES, I64, _INT_IN, _BYTES, _IN2, I64, _SHORTS, _OUT1, _OUT1, _KEYS, _INT1))
def hopeful(
    x: Any,
    places: Any,
    count: Any,
    members: Any,
    codes: Any,
    terms: Any,
    top: Any,
    coded: Any,
    lows: Any,
    highs: Any,
    keys: Any,
    rows: Any,
) -> Any:
    """The rows of those at the first `count` of `places` that may be among the `top` best; how many.

    `coded` i16 (width,) is zeros beyond the user's dimension; it, `lows`, `highs` and `keys` are scratch.
    """
    least, hopes = _LOWEST, np.uint64(0)
    if count > top:
        user_terms = np.empty(3, np.float32)
        user_codes(x, coded, user_terms)
        _bounds(coded, user_terms, places, count, codes, terms, lows, highs)
        least = _least(lows, count, top, keys)
    for i in range(np.uint64(count)):
        # what is not known, because a value is not finite, is looked at
        if count <= top or not highs[i] < least:
            rows[hopes] = members[places[i]]
            hopes += _ONE
    return np.int64(hopes)


@inlined
def _fetch(flat: Any, bias: Any, row: Any, width: Any) -> None:
    for column in range(0, width, LINE_FLOATS):
        prefetch(flat, row * width + column)
    prefetch(bias, row)


@kernel(I64(_IN1, _INT_IN, I64, _IN2, _IN1, I64, _KEYS))
def rerank(x: Any, rows: Any, count: Any, vectors: Any, bias: Any, top: Any, keys: Any) -> Any:
    """The keys of the `top` rows by x @ vectors[row] + bias[row], best first; how many.

    A row is asked for `_AHEAD` rows before its turn.
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
        kept = offer(keys, kept, top, key_of(score, np.int64(row)))
    order(keys, kept)
    return kept


@kernel(
    VOID(
        _IN2, *WEIGHTS, I64, taken(I64, 1), _INT_IN, I64, _BYTES, _IN2, _IN2, _IN1, _INT2, _OUT2, _INT1, _INT1
    )
)
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
    codes: Any,
    terms: Any,
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
    paths, beams, path_keys = np.empty(beam, np.int64), np.empty(beam, np.float32), np.empty(beam, np.uint64)
    table = 2
    while table < 2 * limit:
        table *= 2
    seen, rows, places = np.empty(table, np.int32), np.empty(limit, np.int32), np.empty(limit, np.int64)
    lows, highs, keys = np.empty(limit, np.float32), np.empty(limit, np.float32), np.empty(top, np.uint64)
    coded = np.zeros(codes.shape[0] // max(1, members.shape[0]), np.int16)
    for n in range(users.shape[0]):
        user_parts(users[n], user_in, user_bias, parts)
        size = best_paths(parts, node_in, out, out_bias, beam, paths, beams, path_keys)
        found = collect(paths, size, offsets, members, limit, seen, places)
        hopes = hopeful(users[n], places, found, members, codes, terms, top, coded, lows, highs, keys, rows)
        kept = rerank(users[n], rows, hopes, vectors, bias, top, keys)
        counts[n], reranked[n] = kept, found
        for i in range(kept):
            best[n, i], scores[n, i] = code_of(keys[i]), score_of(keys[i])

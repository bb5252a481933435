"""A bounded heap of the best (score, code) pairs, its worst at the root. Compiled into other kernels.

Pairs are ordered by score, high first, and on a tie by code, low first, so that a result never depends on
the order in which its pairs were offered.
"""

# ruff: noqa: PLR0917 - a kernel takes as many arrays as it takes
from __future__ import annotations

from typing import Any

from runtime.compiled import BOOL, F32, I64, VOID, made
from runtime.compiled import fused_kernel as kernel

_SCORES = made(F32, 1)
_CODES = made(I64, 1)


@kernel(BOOL(F32, I64, F32, I64))
def worse(score: Any, code: Any, than_score: Any, than_code: Any) -> Any:
    """Whether the first pair ranks below the second."""
    return score < than_score or (score == than_score and code > than_code)


@kernel(VOID(_SCORES, _CODES, I64, I64))
def _sink(scores: Any, codes: Any, size: Any, at: Any) -> None:
    score, code = scores[at], codes[at]
    child = 2 * at + 1
    while child < size:
        other = child + 1
        if other < size and worse(scores[other], codes[other], scores[child], codes[child]):
            child = other
        if not worse(scores[child], codes[child], score, code):
            break
        scores[at], codes[at] = scores[child], codes[child]
        at = child
        child = 2 * at + 1
    scores[at], codes[at] = score, code


@kernel(I64(_SCORES, _CODES, I64, I64, F32, I64))
def offer(scores: Any, codes: Any, size: Any, limit: Any, score: Any, code: Any) -> Any:
    """Keep a pair if it is among the best `limit`; the heap's size then."""
    if size == limit:
        if worse(scores[0], codes[0], score, code):
            scores[0], codes[0] = score, code
            _sink(scores, codes, size, 0)
        return size
    at = size
    while at > 0:
        parent = (at - 1) // 2
        if not worse(score, code, scores[parent], codes[parent]):
            break
        scores[at], codes[at] = scores[parent], codes[parent]
        at = parent
    scores[at], codes[at] = score, code
    return size + 1


@kernel(VOID(_SCORES, _CODES, I64))
def order(scores: Any, codes: Any, size: Any) -> None:
    """Turn the heap's `size` pairs into a list, best first."""
    for last in range(size - 1, 0, -1):
        score, code = scores[last], codes[last]
        scores[last], codes[last] = scores[0], codes[0]
        scores[0], codes[0] = score, code
        _sink(scores, codes, last, 0)

"""Beam search over the structure, and retrieval with it: plain arrays in and out, without torch and the GIL.

A layer keeps the `beam` prefixes of the highest cumulative log-probability, by a bounded heap instead of a
sort. Where `beam` is at least K^(D-1) nothing is cut and the result is that of enumerating all K^D paths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.retrieval import kernels, walk
from models.retrieval.postings import Postings
from models.retrieval.weights import BeamWeights
from schema.records import F32

I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Beams:
    """The best b paths of n users, best first: codes i32 (n, b) and log-probabilities f32 (n, b)."""

    paths: I32
    log_probs: F32


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The best items of n users, best first: rows i32 (n, top) and scores f32 (n, top).

    Of row i the first `counts[i]` are filled, the rest is row -1 and score -inf; `reranked[i]` items were
    scored.
    """

    rows: I32
    scores: F32
    counts: I32
    reranked: I32


def search(weights: BeamWeights, users: F32, beam: int) -> Beams:
    """The best min(`beam`, K^D) paths of users f32 (n, dim).

    Raises:
        ValueError: `users` has another width than the weights, or `beam` is below 1.
    """
    users = _checked(weights, users, beam)
    width = min(beam, weights.paths)
    paths = np.empty((len(users), width), np.int32)
    log_probs = np.empty((len(users), width), np.float32)
    kernels.search(users, *weights.arrays(), width, paths, log_probs)
    return Beams(paths, log_probs)


def retrieve(
    weights: BeamWeights,
    postings: Postings,
    users: F32,
    *,
    beam: int,
    limit: int,
    top: int,
) -> Retrieved:
    """The best `top` items of users f32 (n, dim) among the first `limit` distinct ones on their `beam` paths.

    Items are met path by path, the most probable path first.

    Raises:
        ValueError: the shapes of the arguments do not fit together.
    """
    users = _checked(weights, users, beam)
    _check_postings(weights, postings)
    if min(limit, top) < 1:
        raise ValueError(f"limit, top: {limit}, {top}; legal is at least 1")
    n = len(users)
    rows = np.full((n, top), -1, np.int32)
    scores = np.full((n, top), -np.inf, np.float32)
    counts, reranked = np.empty(n, np.int32), np.empty(n, np.int32)
    walk.retrieve(
        users,
        *weights.arrays(),
        min(beam, weights.paths),
        postings.index.offsets,
        postings.index.members,
        limit,
        postings.codes.reshape(-1),
        postings.terms,
        postings.reranker.vectors,
        postings.reranker.bias,
        rows,
        scores,
        counts,
        reranked,
    )
    return Retrieved(rows, scores, counts, reranked)


def _checked(weights: BeamWeights, users: F32, beam: int) -> F32:
    if users.ndim != 2 or users.shape[1] != weights.dim:  # noqa: PLR2004
        raise ValueError(f"users: shape {users.shape}; legal is (n, {weights.dim})")
    if beam < 1:
        raise ValueError(f"beam: {beam}; legal is at least 1")
    return np.ascontiguousarray(users, np.float32)


def _check_postings(weights: BeamWeights, postings: Postings) -> None:
    """The kernels do not look twice: an index out of bounds would read what is not theirs."""
    paths, dim = len(postings.index.offsets) - 1, postings.reranker.vectors.shape[1]
    if paths != weights.paths:
        raise ValueError(f"postings: of {paths} paths; legal is {weights.paths}, as the weights have")
    if dim != weights.dim:
        raise ValueError(f"postings: vectors of {dim} values; legal is {weights.dim}, as the weights have")

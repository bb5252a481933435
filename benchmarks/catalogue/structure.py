"""A synthetic catalogue placed on a structure of its size, with the network that knows it.

An item's vector is a sum of D code words and noise. Its first path is its code words, further ones differ in
the one that matters least; the network knows the code words, so that what a beam finds can be compared with
what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.retrieval.beam import Retrieved, retrieve
from models.retrieval.inverted import build_index
from models.retrieval.postings import Postings, Reranker
from models.retrieval.weights import BeamWeights

DIM: Final = 64
TOP: Final = 100
HISTORY: Final = 5
_NOISE: Final = np.float32(0.5)
_ON_A_PATH: Final = 30
_TWO_LAYERS: Final = 64
_CHUNK: Final = 100_000
"""Items whose vectors are made at a time, so that a large catalogue is in memory once."""
_SHIFT: Final = np.float32(64.0)
"""Larger than any input, so that a hidden unit passes its input on, whatever its sign."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How far a search goes: the beam, and how many items it scores."""

    beam: int
    limit: int


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The items' vectors f32 (n, DIM) and codes i32 (n, D) of the words f32 (D, K, DIM) they are sums of."""

    vectors: np.ndarray
    codes: np.ndarray
    words: np.ndarray

    @classmethod
    def of(cls, items: int) -> Catalogue:
        """A catalogue of `items` items."""
        rng = np.random.default_rng(items)
        nodes, depth = sizes(items)
        words = rng.standard_normal((depth, nodes, DIM), dtype=np.float32)
        codes = rng.integers(0, nodes, (items, depth), dtype=np.int32)
        vectors = np.empty((items, DIM), np.float32)
        for start in range(0, items, _CHUNK):
            part, chosen = vectors[start : start + _CHUNK], codes[start : start + _CHUNK]
            rng.standard_normal(dtype=np.float32, out=part)
            part *= _NOISE
            for d in range(depth):
                part += words[d][chosen[:, d]]
        return cls(vectors, codes, words)

    def users(self, count: int) -> np.ndarray:
        """Users (count, DIM) as a tower makes them: the mean of the vectors of a history of HISTORY items."""
        history = np.random.default_rng(1).integers(0, len(self.vectors), (count, HISTORY))
        users: np.ndarray = self.vectors[history].mean(axis=1)
        return users

    def placed(self, paths: int) -> Placed:
        """The items on `paths` paths each."""
        assigned = np.empty((len(self.vectors), paths), np.int32)
        for start in range(0, len(assigned), _CHUNK):
            part = slice(start, start + _CHUNK)
            assigned[part] = _paths(self.vectors[part], self.codes[part], self.words, paths)
        depth, nodes = self.words.shape[:2]
        index = build_index(assigned, nodes**depth)
        reranker = Reranker(self.vectors, np.zeros(len(self.vectors), np.float32))
        return Placed(_network(self.words), Postings.of(index, reranker))


@dataclass(frozen=True, slots=True)
class Placed:
    """A catalogue on a structure."""

    weights: BeamWeights
    postings: Postings

    def retrieve(self, users: np.ndarray, setting: Setting) -> Retrieved:
        """The best TOP items of `users` (n, DIM)."""
        beam, limit = setting.beam, setting.limit
        return retrieve(self.weights, self.postings, users, beam=beam, limit=limit, top=TOP)


def sizes(items: int) -> tuple[int, int]:
    """K and D: paths of 30 items in two layers of at most 64 nodes, or else in three."""
    paths = items / _ON_A_PATH
    depth = 2 if paths <= _TWO_LAYERS**2 else 3
    return max(2, round(paths ** (1 / depth))), depth


def _paths(vectors: np.ndarray, codes: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
    """Codes (n, count): an item's own path, and those with one other word where that costs least."""
    depth, nodes = words.shape[:2]
    places, every = np.int32(nodes) ** np.arange(depth - 1, -1, -1, dtype=np.int32), np.arange(len(codes))
    paths = np.repeat((codes @ places)[:, None], count, axis=1)
    if count == 1:
        return paths
    losses, others = [], []
    for d in range(depth):
        scores = vectors @ words[d].T
        own = scores[every, codes[:, d]].copy()
        scores[every, codes[:, d]] = -np.inf
        others.append(scores.argmax(axis=1))
        losses.append(own - scores[every, others[d]])
    order = np.argsort(np.stack(losses, axis=1), axis=1)
    for j in range(1, count):
        layer = order[:, j - 1]
        paths[:, j] += (np.stack(others, axis=1)[every, layer] - codes[every, layer]) * places[layer]
    return paths


def _network(words: np.ndarray) -> BeamWeights:
    """Log p(c | x) = sum_d x @ words[d, c_d] less a constant: hidden units are the inputs, shifted."""
    depth, nodes, dim = words.shape
    return BeamWeights(
        np.tile(np.eye(dim, dtype=np.float32), (depth, 1, 1)),
        np.full((depth, dim), _SHIFT),
        np.zeros((depth * (depth - 1) // 2, nodes, dim), np.float32),
        np.ascontiguousarray(words.transpose(0, 2, 1)),
        -_SHIFT * words.sum(axis=2),
    )

"""What else searches the catalogue: brute force, and faiss's HNSW."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from catalogue.structure import TOP

_LINKS: Final = 24
_EF_SEARCH: Final = 200
_EF_CONSTRUCTION: Final = 40
"""The library's default; a larger one builds for longer and finds a little more for the same time."""
_CHUNK: Final = 100_000
_USERS: Final = 32
"""At once, so that the scores of 10 M items are 1.3 GB."""

Search = Callable[[np.ndarray], np.ndarray]


def brute(vectors: np.ndarray) -> Search:
    """The true best rows (n, TOP) of users (n, DIM), by a matrix product."""
    items = torch.from_numpy(vectors).T

    def search(users: np.ndarray) -> np.ndarray:
        parts = torch.from_numpy(users).split(_USERS)  # type: ignore[no-untyped-call]
        return torch.cat([(part @ items).topk(TOP, dim=1).indices for part in parts]).numpy()

    return search


def hnsw(vectors: np.ndarray, say: Callable[[str], None]) -> Search | None:
    """A search by HNSW over `vectors`, or None without faiss. All cores build, one searches."""
    if importlib.util.find_spec("faiss") is None:
        return None
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    for start in range(0, len(vectors), _CHUNK):
        index.add(vectors[start : start + _CHUNK])
        say(f"HNSW holds {index.ntotal:,} of {len(vectors):,} vectors")
    index.hnsw.efSearch = _EF_SEARCH
    faiss.omp_set_num_threads(1)
    return lambda users: index.search(users, TOP)[1]


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the rows `exact` (n, TOP) that are among `found` (n, TOP)."""
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, exact, strict=True)]))

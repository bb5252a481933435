"""Slow, obvious oracles for the compiled kernels: plain Python integers, and NumPy scalars of float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix64(x: int) -> int:
    x = (x + _GOLDEN) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


def first_vector(seed: int, wanted: int, dim: int, scale: float) -> np.ndarray:
    base = mix64(wanted ^ mix64(seed))
    bits = [mix64((base + j * _GOLDEN) & _MASK) >> 40 for j in range(dim)]
    return np.array([b / 2**23 - 1 for b in bits], np.float32) * np.float32(scale)


def digest(rows: Mapping[int, np.ndarray]) -> int:
    total = 0
    for wanted, vector in rows.items():
        state = mix64(wanted)
        for word in vector.view(np.uint32).tolist():
            state = ((state ^ word) * 0x9FB21C651E98DF25) & _MASK
            state ^= state >> 32
        total += mix64(state)
    return total & _MASK


def adagrad(
    vector: np.ndarray, accumulator: float, gradient: np.ndarray, rate: float, epsilon: float
) -> tuple[np.ndarray, float]:
    """One row-wise step in double precision."""
    wide = gradient.astype(np.float64)
    accumulator += float((wide**2).mean())
    return vector - rate * wide / (np.sqrt(accumulator) + epsilon), accumulator


def summed(ids: Iterable[int], gradients: np.ndarray) -> dict[int, np.ndarray]:
    """The sum of the gradients of each id, in the order in which the ids first occur."""
    sums: dict[int, np.ndarray] = {}
    for wanted, gradient in zip(ids, gradients, strict=True):
        sums[wanted] = sums.get(wanted, np.zeros_like(gradient)) + gradient
    return sums


class NaiveTable:
    """A table as a dict: rows of double precision, accumulators, versions and last uses."""

    def __init__(
        self, *, dim: int, seed: int, scale: float, rate: float, start: float, epsilon: float
    ) -> None:
        self.dim, self.seed, self.scale = dim, seed, scale
        self.rate, self.start, self.epsilon = rate, start, epsilon
        self.rows: dict[int, tuple[np.ndarray, float]] = {}

    def pull(self, ids: Iterable[int]) -> np.ndarray:
        seen = [
            self.rows[i][0] if i in self.rows else first_vector(self.seed, i, self.dim, self.scale)
            for i in ids
        ]
        return np.array(seen).reshape(-1, self.dim)

    def push(self, ids: Iterable[int], gradients: np.ndarray) -> None:
        for i, gradient in summed(ids, gradients).items():
            vector, accumulator = self.rows.get(
                i, (first_vector(self.seed, i, self.dim, self.scale).astype(np.float64), self.start)
            )
            self.rows[i] = adagrad(vector, accumulator, gradient, self.rate, self.epsilon)

    def remove(self, ids: Iterable[int]) -> int:
        return sum(self.rows.pop(i, None) is not None for i in ids)

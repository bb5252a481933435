"""The baseline that the ranker has to beat: smoothed log-odds of item, user and surface, added up.

    score = logit(g) + sum over k of (logit((pos_k + a g) / (n_k + a)) - logit(g)),  a = 20

g is the rate of all rows so far. Prequential as the ranker is: a batch is scored before it is counted.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schema.records import F32, I64

PRIOR: Final = 20.0
_KEYS: Final = 3

F64 = NDArray[np.float64]


class SavedCounts(msgspec.Struct, frozen=True, array_like=True):
    """The counts of one key: ids <i8 (k,), positives and pairs <f8 (k, T)."""

    ids: bytes
    positives: bytes
    pairs: bytes


class SavedBaseline(msgspec.Struct, frozen=True, array_like=True):
    """A baseline as a checkpoint keeps it: the counts of all rows, and of item, user and surface."""

    everything: SavedCounts
    keys: tuple[SavedCounts, ...]


class Counts:
    """Positives and pairs of T tasks by id. An id that was never counted has none."""

    def __init__(self, tasks: int) -> None:
        self._rows: dict[int, int] = {}
        self._positives: F64 = np.zeros((16, tasks))
        self._pairs: F64 = np.zeros((16, tasks))

    def get(self, ids: list[int]) -> tuple[F64, F64]:
        """Positives and pairs of ids (n,), each (n, T)."""
        rows = np.array([self._rows.get(i, -1) for i in ids])
        known = (rows >= 0)[:, None]
        return np.where(known, self._positives[rows], 0.0), np.where(known, self._pairs[rows], 0.0)

    def add(self, ids: list[int], positives: F64, pairs: F64) -> None:
        """Count n rows of ids (n,); both arrays (n, T)."""
        rows = [self._rows.setdefault(i, len(self._rows)) for i in ids]
        while len(self._rows) > len(self._pairs):
            self._positives = np.concatenate([self._positives, np.zeros_like(self._positives)])
            self._pairs = np.concatenate([self._pairs, np.zeros_like(self._pairs)])
        np.add.at(self._positives, rows, positives)
        np.add.at(self._pairs, rows, pairs)

    def state(self) -> SavedCounts:
        """What `loaded` needs."""
        k = len(self._rows)
        ids = np.fromiter(self._rows, np.int64, k)
        return SavedCounts(ids.tobytes(), self._positives[:k].tobytes(), self._pairs[:k].tobytes())

    @classmethod
    def loaded(cls, tasks: int, saved: SavedCounts) -> Counts:
        """Counts of `tasks` tasks with the state `saved`."""
        counts = cls(tasks)
        positives = np.frombuffer(saved.positives).reshape(-1, tasks)
        pairs = np.frombuffer(saved.pairs).reshape(-1, tasks)
        counts.add(np.frombuffer(saved.ids, np.int64).tolist(), positives, pairs)
        return counts


class LogOddsBaseline:
    """The baseline's counts of T tasks."""

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._everything = Counts(tasks)
        self._keys = [Counts(tasks) for _ in range(_KEYS)]

    def score_and_count(
        self, keys: tuple[I64, I64, I64], labels: F32, mask: F32, weights: F32 | None = None
    ) -> F32:
        """Probabilities (n, T) of rows whose items, users and surfaces are `keys` (n,), which then count.

        `weights` (n,) is what each row counts for, 1 if None.
        """
        named = [key.tolist() for key in keys]
        scores = self._score(named)
        rows = np.ones(len(mask)) if weights is None else weights.astype(np.float64)
        pairs: F64 = (mask > 0) * rows[:, None]
        positives = labels * pairs
        self._everything.add([0], positives.sum(axis=0, keepdims=True), pairs.sum(axis=0, keepdims=True))
        for counts, ids in zip(self._keys, named, strict=True):
            counts.add(ids, positives, pairs)
        return scores

    def _score(self, keys: list[list[int]]) -> F32:
        positives, pairs = self._everything.get([0])
        rate = (positives + 1) / (pairs + 2)
        base = _logit(rate)
        total = np.repeat(base, len(keys[0]), axis=0)
        for counts, ids in zip(self._keys, keys, strict=True):
            had, of = counts.get(ids)
            total += _logit((had + PRIOR * rate) / (of + PRIOR)) - base
        return (1 / (1 + np.exp(-total))).astype(np.float32)

    def state(self) -> SavedBaseline:
        """All counts, for a checkpoint."""
        return SavedBaseline(self._everything.state(), tuple(c.state() for c in self._keys))

    def restore(self, saved: SavedBaseline) -> None:
        """Take the place of whatever was counted."""
        self._everything = Counts.loaded(self._tasks, saved.everything)
        self._keys = [Counts.loaded(self._tasks, c) for c in saved.keys]


def _logit(p: F64) -> F64:
    return np.log(p) - np.log1p(-p)

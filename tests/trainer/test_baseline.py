"""The baseline against the same sums over dictionaries."""

from __future__ import annotations

import math
from collections import defaultdict

import msgspec
import numpy as np
import pytest

from trainer.baseline import LogOddsBaseline, SavedBaseline


class Naive:
    """One task. Positives and rows by (key, id)."""

    def __init__(self) -> None:
        self.counts: defaultdict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def score(self, row: tuple[int, int, int]) -> float:
        positives, rows = self.counts["all", 0]
        g = (positives + 1) / (rows + 2)
        z = math.log(g / (1 - g))
        for key, value in zip(("item", "user", "surface"), row, strict=True):
            positives, rows = self.counts[key, value]
            p = (positives + 20 * g) / (rows + 20)
            z += math.log(p / (1 - p)) - math.log(g / (1 - g))
        return 1 / (1 + math.exp(-z))

    def count(self, row: tuple[int, int, int], label: float) -> None:
        for key in (("all", 0), *zip(("item", "user", "surface"), row, strict=True)):
            self.counts[key][0] += label
            self.counts[key][1] += 1


@pytest.mark.parametrize("save", [False, True])
def test_equals_the_naive_sums_batch_by_batch(save):
    rng = np.random.default_rng(5)
    baseline, naive = LogOddsBaseline(2), [Naive(), Naive()]
    for _ in range(30):
        n = int(rng.integers(1, 40))
        keys = tuple(rng.integers(0, high, n) for high in (60, 40, 3))
        labels = rng.integers(0, 2, (n, 2)).astype(np.float32)
        mask = rng.integers(0, 2, (n, 2)).astype(np.float32)
        rows = list(zip(*(k.tolist() for k in keys), strict=True))
        want = [[naive[task].score(row) for task in range(2)] for row in rows]
        np.testing.assert_allclose(baseline.score_and_count(keys, labels, mask), want, rtol=1e-5)
        for i, row in enumerate(rows):
            for task in range(2):
                if mask[i, task]:
                    naive[task].count(row, labels[i, task])
        if save:
            saved = msgspec.msgpack.decode(msgspec.msgpack.encode(baseline.state()), type=SavedBaseline)
            baseline = LogOddsBaseline(2)
            baseline.restore(saved)


def test_nothing_seen_scores_a_half():
    keys = tuple(np.array([1]) for _ in range(3))
    scores = LogOddsBaseline(1).score_and_count(keys, np.ones((1, 1), "f4"), np.ones((1, 1), "f4"))
    assert scores == pytest.approx(0.5)

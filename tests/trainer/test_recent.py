"""The AUC within users over the newest rows, against the one function on all of them."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import grouped_auc
from trainer.recent import RecentRows


def rows(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, 2)
    labels = (rng.random(shape) < 0.4).astype("f4")
    return (
        rng.random(shape).astype("f4"),
        labels,
        (rng.random(shape) < 0.8).astype("f4"),
        rng.integers(0, 9, count),
    )


@given(
    seed=st.integers(0, 500),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    kept=st.integers(1, 90),
)
def test_is_that_of_the_newest_batches(seed, sizes, kept):
    recent = RecentRows(2, kept)
    batches = [rows(seed + i, size) for i, size in enumerate(sizes)]
    for batch in batches:
        recent.update(*batch)
    last = next(n for n in range(1, len(sizes) + 1) if n == len(sizes) or sum(sizes[-n:]) >= kept)
    predictions, labels, mask, users = (np.concatenate(c) for c in zip(*batches[-last:], strict=True))
    assert len(recent) == len(users)
    for task, found in enumerate(recent.grouped_auc()):
        of = mask[:, task] > 0
        want = grouped_auc(predictions[of, task], labels[of, task], users[of])
        assert found == want or (math.isnan(found) and math.isnan(want))


def test_without_rows_it_is_not_a_number():
    assert all(map(math.isnan, RecentRows(2).grouped_auc()))

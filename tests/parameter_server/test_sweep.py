"""What recent pushes changed is remembered exactly, or said not to be; a sweep says when removals are forgotten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.errors import TrimmedError
from parameter_server.shard import Shard
from parameter_server.sweep import RecentChanges
from tests.parameter_server.cases import config, gradients, u64


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 40), st.integers(0, 22))
def test_recent_changes_are_all_of_those_since_a_clock_or_unknown(
    sizes: list[int], kept: int, since: int
) -> None:
    recent = RecentChanges(kept)
    for clock, size in enumerate(sizes, start=1):
        recent.add(clock, {"a": u64(range(100 * clock, 100 * clock + size))})
    found = recent.since(since)
    wanted = [
        100 * clock + i for clock, size in enumerate(sizes, start=1) if clock > since for i in range(size)
    ]
    if found is None:
        assert sum(sizes) > kept
    else:
        assert sorted(i for part in found.get("a", []) for i in part.tolist()) == wanted
    recent.forget(len(sizes))
    assert recent.since(len(sizes)) == {}
    assert recent.since(len(sizes) - 1) is None


def test_a_sweep_whose_removals_are_forgotten_meanwhile_says_so() -> None:
    shard = Shard(config(tombstones_kept=2, chunk_rows=2), 0)
    ids = u64(range(40))
    shard.push("a", 0, {"embedding": (ids, gradients(np.random.default_rng(0), 40))}, 0)
    stream = iter(shard.stream(None))
    next(stream)
    for start in range(0, 20, 4):
        shard.evict("embedding", ids[start : start + 4])
    with pytest.raises(
        TrimmedError, match=r"table embedding: the removals since clock 1 are forgotten; .*tombstones_kept"
    ):
        list(stream)
    assert shard.delta(None).full

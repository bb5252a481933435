"""Exploration: what is shown, how often, and what the log says of it."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
import pytest

from serving.exploration import slate
from tests.serving.parts import CONFIG, Stage, item

ORDER = np.array([7, 3, 5, 1])


def test_without_exploration_the_best_are_shown_for_sure():
    shown = slate(ORDER, 3, 0.0, np.random.default_rng(1))
    assert shown.chosen.tolist() == [7, 3, 5]
    assert shown.propensities.tolist() == [1.0, 1.0, 1.0]


def test_nothing_is_shown_twice_and_everything_may_be():
    seen = Counter()
    for seed in range(300):
        shown = slate(ORDER, 9, 1.0, np.random.default_rng(seed))
        assert sorted(shown.chosen) == [1, 3, 5, 7]
        seen[int(shown.chosen[0])] += 1
    assert set(seen) == {1, 3, 5, 7}


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_propensity_is_the_frequency(share):
    """Of all ways to fill two positions: how often each happens, against the product of its propensities."""
    rounds = 20_000
    rng = np.random.default_rng(3)
    counts, claimed = Counter(), {}
    for _ in range(rounds):
        shown = slate(ORDER, 2, share, rng)
        key = tuple(shown.chosen.tolist())
        counts[key] += 1
        claimed[key] = float(np.prod(shown.propensities, dtype=np.float64))
    assert sum(claimed.values()) == pytest.approx(1.0, abs=0.02)
    for key, count in counts.items():
        assert count / rounds == pytest.approx(claimed[key], abs=0.012), key


def test_a_feed_logs_its_propensities():
    serving = msgspec.structs.replace(CONFIG.serving, explore_share=0.5)
    stage = Stage(msgspec.structs.replace(CONFIG, serving=serving))
    stage.learn(*[item(i) for i in range(30)])
    stage.replica.outboxes.start()
    feeds = [stage.replica.feeds.feed(user, 0, 10) for user in range(40)]
    stage.replica.outboxes.stop(10)
    for feed, log in zip(feeds, stage.logs.records, strict=True):
        assert log.problem() is None
        np.testing.assert_array_equal(np.frombuffer(log.propensities, "<f4"), feed.propensities)
    explored = np.mean([feed.explored for feed in feeds])
    assert explored == pytest.approx(0.5, abs=0.1)
    body = stage.post("/v1/feed", {"user_id": 1}).json()
    assert {i["explored"] for i in body["items"]} <= {True, False}

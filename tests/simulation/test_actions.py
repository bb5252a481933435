"""When actions happen: after their exposures, by the rule, and inside the window."""

from __future__ import annotations

import numpy as np
import pytest

from schema.errors import ConfigError
from simulation.actions import CAP_MS, KINDS, LEAST_WINDOW_MS, Outcomes, outcomes
from simulation.log import Log
from simulation.requests import GAP_MS, group
from tests.simulation.logs import log_of

WINDOW_MS = 1_800_000

DELAYS = {
    ("click", 0): 1_000,
    ("click", 500_000): 1_000,
    ("like", 0): 2_000,
    ("like", 10_000): 5_000,
    ("follow", 10_000): 6_000,
    ("profile_enter", 10_000): 7_000,
    ("comment", 10_000): 8_000,
    ("forward", 10_000): 9_000,
    ("long_view", 10_000): 10_000,
    ("long_view", 10): 2_000,
    ("hate", 10_000): 10_000,
}


def _outcomes(log: Log, window_ms: int = WINDOW_MS) -> Outcomes:
    return outcomes(log, group(log), window_ms)


@pytest.mark.parametrize(("kind", "play_ms"), DELAYS)
def test_an_action_follows_its_exposure_by_the_rule(kind: str, play_ms: int) -> None:
    found = _outcomes(log_of(times=[5_000], play_ms=[play_ms], outcomes={kind: [1]}))
    assert found.times.tolist() == [5_000 + DELAYS[kind, play_ms]]
    assert KINDS[found.kinds[0]] == kind


def test_a_long_view_carries_the_seconds_watched() -> None:
    flags = {"click": [1], "long_view": [1]}
    found = _outcomes(log_of(times=[0], play_ms=[12_500], outcomes=flags))
    assert found.values.tolist() == [1.0, 12.5]


def test_actions_come_in_time_order_and_only_where_they_happened() -> None:
    log = log_of(
        times=[0, 10, 20],
        play_ms=[60_000, 3_000, 0],
        outcomes={"click": [1, 0, 1], "long_view": [1, 1, 0]},
    )
    found = _outcomes(log)
    assert found.times.tolist() == sorted(found.times.tolist())
    happened = list(zip(found.rows.tolist(), (KINDS[k] for k in found.kinds), strict=True))
    assert happened == [(0, "click"), (2, "click"), (1, "long_view"), (0, "long_view")]


def test_a_play_longer_than_the_window_is_brought_forward() -> None:
    log = log_of(
        times=[0, GAP_MS],
        play_ms=[0, 10 * WINDOW_MS],
        outcomes={"long_view": [0, 1], "click": [0, 1]},
    )
    found = _outcomes(log)
    assert found.times.tolist() == [GAP_MS + 1_000, WINDOW_MS - CAP_MS]


def test_the_shortest_window_still_holds_the_longest_request() -> None:
    times = (np.arange(10) * GAP_MS).tolist()
    log = log_of(times=times, play_ms=[900_000] * 10, outcomes={kind: [1] * 10 for kind in KINDS})
    found = _outcomes(log, LEAST_WINDOW_MS)
    assert (found.times > log.times[found.rows]).all()
    assert (found.times < LEAST_WINDOW_MS).all()


def test_a_shorter_window_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"streaming\.window_seconds: 5; legal for a replay is at least 600"
    ):
        _outcomes(log_of(times=[0]), 5_000)

"""The request rule, against examples and a slow oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.log import Log
from simulation.requests import GAP_MS, MAX_IMPRESSIONS, group
from tests.simulation.logs import log_of

SECOND = 1_000


def _grouped(log: Log) -> list[list[int]]:
    requests = group(log)
    cuts = requests.starts.tolist()
    rows = requests.rows.tolist()
    return [rows[a:b] for a, b in itertools.pairwise(cuts)]


def _naive(log: Log) -> list[list[int]]:
    """Row by row: an exposure joins its user's and surface's last request where the rule lets it."""
    found: list[list[int]] = []
    last: dict[tuple[int, int], list[int]] = {}
    for row in range(len(log)):
        place = (int(log.users[row]), int(log.surfaces[row]))
        rows = last.get(place)
        joins = (
            rows is not None
            and log.times[row] - log.times[rows[-1]] <= GAP_MS
            and len(rows) < MAX_IMPRESSIONS
            and log.items[row] not in [log.items[r] for r in rows]
        )
        if not joins:
            rows = []
            found.append(rows)
            last[place] = rows
        rows.append(row)
    return found


CASES = {
    "within the gap": (log_of(times=[0, GAP_MS, 2 * GAP_MS]), [[0, 1, 2]]),
    "beyond the gap": (log_of(times=[0, GAP_MS + 1]), [[0], [1]]),
    "at most ten": (log_of(times=list(range(12))), [list(range(10)), [10, 11]]),
    "an item shown again": (log_of(times=[0, 1, 2, 3], items=[5, 6, 5, 6]), [[0, 1], [2, 3]]),
    "two users": (log_of(times=[0, 1, 2], users=[1, 2, 1]), [[0, 2], [1]]),
    "two tabs": (log_of(times=[0, 1, 2], surfaces=[1, 2, 1]), [[0, 2], [1]]),
    "equal times": (log_of(times=[0, 0, 0], items=[1, 1, 2]), [[0], [1, 2]]),
    "one exposure": (log_of(times=[9]), [[0]]),
}


@pytest.mark.parametrize("case", CASES)
def test_examples(case: str) -> None:
    log, expected = CASES[case]
    assert _grouped(log) == expected


exposure = st.tuples(
    st.sampled_from([0, 1, GAP_MS // 2, GAP_MS, GAP_MS + 1]),
    st.integers(0, 2),
    st.integers(0, 1),
    st.integers(0, 15),
)


@given(st.lists(exposure, min_size=1, max_size=120))
def test_the_rule_equals_the_oracle(rows: list[tuple[int, int, int, int]]) -> None:
    gaps, users, surfaces, items = (list(column) for column in zip(*rows, strict=True))
    log = log_of(times=np.cumsum(gaps).tolist(), users=users, surfaces=surfaces, items=items)
    assert _grouped(log) == _naive(log)


@given(st.lists(exposure, min_size=1, max_size=120))
def test_every_exposure_is_in_one_request(rows: list[tuple[int, int, int, int]]) -> None:
    gaps, users, surfaces, items = (list(column) for column in zip(*rows, strict=True))
    log = log_of(times=np.cumsum(gaps).tolist(), users=users, surfaces=surfaces, items=items)
    requests = group(log)
    assert sorted(requests.rows.tolist()) == list(range(len(log)))
    for number, members in enumerate(_grouped(log)):
        assert (requests.of_row[members] == number).all()
        assert requests.firsts[number] == members[0] == min(members)

"""The bounded log of removed ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parameter_server.tombstones import TombstoneLog
from tests.parameter_server.cases import u64


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=20), st.integers(1, 20))
def test_it_knows_every_removal_after_what_it_says_it_trimmed(removals: list[list[int]], kept: int) -> None:
    log = TombstoneLog(kept)
    for clock, ids in enumerate(removals, 1):
        log.add(u64(ids), clock)
        assert len(log) <= kept
    for clock in range(log.trimmed, len(removals) + 1):
        assert log.since(clock).tolist() == [i for ids in removals[clock:] for i in ids]


def test_an_empty_log_answers_for_all_time() -> None:
    log = TombstoneLog(1)
    assert (log.trimmed, log.since(0).tolist(), len(log)) == (0, [], 0)

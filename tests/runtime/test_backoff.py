"""The restart back-off: doubles, stays below its bound, and forgets after a long run."""

from hypothesis import given
from hypothesis import strategies as st

from runtime.backoff import Backoff


def delays(backoff, uptimes):
    found = []
    for uptime in uptimes:
        backoff = backoff.after_death(uptime)
        found.append(backoff.delay)
    return found


def test_early_deaths_double_the_delay_up_to_the_most():
    assert delays(Backoff(0.5, 3.0), [0, 1, 0, 2, 0]) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_run_longer_than_the_most_starts_over():
    assert delays(Backoff(0.5, 3.0), [0, 0, 3.5, 0]) == [0.5, 1.0, 0.5, 1.0]


@given(st.floats(0.01, 10), st.floats(0, 1000), st.lists(st.floats(0, 1e6), max_size=2000))
def test_a_delay_is_never_above_the_most_nor_below_the_smaller_of_both(first, extra, uptimes):
    most = first + extra
    assert all(min(first, most) <= delay <= most for delay in delays(Backoff(first, most), uptimes))

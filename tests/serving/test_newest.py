"""The newest items: as a sort of them all would have them, whatever comes in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.newest import Newest


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 8), st.booleans()), max_size=60),
    st.integers(0, 5),
)
def test_they_are_those_of_the_latest_times(pool, puts, count):
    newest, times = Newest(pool), {}
    for item, time, ask in puts:
        newest.put(item, time)
        times[item] = time
        if ask:
            assert newest.first(pool) == _latest(times)[:pool]
    assert len(newest._latest) <= 2 * pool
    assert newest.first(pool) == _latest(times)[:pool]
    assert len(set(newest.first(count, turn=3))) == min(count, pool, len(times))


def _latest(times: dict[int, int]) -> list[int]:
    return sorted(times, key=lambda item: (times[item], item), reverse=True)

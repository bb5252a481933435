"""Acknowledgement hands back exactly the resolved prefix, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.acks import OffsetTracker


def tracker(*records: int) -> OffsetTracker:
    made: OffsetTracker = OffsetTracker()
    for offset, count in enumerate(records):
        made.add(offset, count)
    return made


def test_an_unresolved_message_holds_back_all_after_it():
    acks = tracker(1, 1, 1)
    acks.resolve(1)
    acks.resolve(2)
    assert acks.take_resolved() == []
    acks.resolve(0)
    assert acks.take_resolved() == [0, 1, 2]
    assert acks.take_resolved() == []


def test_an_envelope_is_resolved_when_all_its_records_are():
    acks = tracker(2)
    acks.resolve(0)
    assert acks.take_resolved() == []
    acks.resolve(0)
    assert acks.take_resolved() == [0]


def test_several_records_are_resolved_at_once_and_none_twice():
    acks = tracker(3)
    acks.resolve(0, 2)
    assert acks.take_resolved() == []
    with pytest.raises(AssertionError, match="offset 0 was resolved more often"):
        acks.resolve(0, 2)
    acks.resolve(0)
    assert acks.take_resolved() == [0]


def test_an_empty_envelope_needs_nothing():
    assert tracker(0).take_resolved() == [0]


def test_low_is_the_oldest_outstanding_or_the_next():
    acks = tracker(1, 1)
    assert acks.low == 0
    acks.resolve(0)
    acks.take_resolved()
    assert acks.low == 1
    acks.resolve(1)
    acks.take_resolved()
    assert (acks.low, acks.end, len(acks)) == (2, 2, 0)


def test_offsets_may_have_gaps_but_not_go_back():
    acks: OffsetTracker = OffsetTracker()
    acks.add(100, 1)
    acks.add(105, 1)
    with pytest.raises(ValueError, match="offset: 105; legal is 106"):
        acks.add(105, 1)
    acks.resolve(100)
    acks.resolve(105)
    assert acks.take_resolved() == [100, 105]


def test_resolving_too_often_is_a_bug():
    acks = tracker(1)
    acks.resolve(0)
    with pytest.raises(AssertionError, match="offset 0"):
        acks.resolve(0)


def test_joined_messages_are_acknowledged_together():
    acks = tracker(1, 1, 1, 1)
    acks.join(0, 2)
    for offset in (0, 2):
        acks.resolve(offset)
    assert acks.take_resolved() == []
    acks.resolve(1)
    assert acks.take_resolved() == [0, 1, 2]


def test_joins_that_overlap_chain():
    acks = tracker(1, 1, 1, 1)
    acks.join(0, 1)
    acks.join(1, 3)
    for offset in (0, 1, 2):
        acks.resolve(offset)
    assert acks.take_resolved() == []
    acks.resolve(3)
    assert acks.take_resolved() == [0, 1, 2, 3]


def test_joining_what_was_handed_back_has_no_effect():
    acks = tracker(1, 1)
    acks.resolve(0)
    assert acks.take_resolved() == [0]
    acks.join(0, 1)
    acks.resolve(1)
    assert acks.take_resolved() == [1]


@given(st.data())
def test_never_beyond_the_resolved_prefix(data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=12))
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=len(counts), max_size=len(counts)))
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    acks: OffsetTracker = OffsetTracker()
    for offset, count in zip(offsets, counts, strict=True):
        acks.add(offset, count)
    spans = data.draw(st.lists(st.tuples(st.sampled_from(offsets), st.sampled_from(offsets)), max_size=3))
    for first, last in spans:
        acks.join(first, last)
    left = dict(zip(offsets, counts, strict=True))
    order = data.draw(st.permutations([o for o, c in left.items() for _ in range(c)]))
    taken: list[int] = []
    for offset in order:
        acks.resolve(offset)
        left[offset] -= 1
        taken += acks.take_resolved()
        assert taken == offsets[: len(taken)]
        assert not any(left[o] for o in taken)
        done = len(taken)
        if done < len(offsets):
            assert not any(f in taken and f < last and last not in taken for f, last in spans)
    taken += acks.take_resolved()
    assert taken == offsets


def test_a_message_may_owe_one_more_record():
    acks = tracker(1)
    acks.owe(0)
    acks.resolve(0)
    assert acks.take_resolved() == []
    acks.resolve(0)
    assert acks.take_resolved() == [0]

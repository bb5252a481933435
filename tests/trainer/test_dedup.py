"""The duplicate filter lets every (impression, task) pair pass once, whatever the joiner emits again."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.records import SampleBlock
from tests.trainer.make import FORM, JoinerModel, block, pairs_of
from trainer.columns.scan import encoded
from trainer.dedup import DuplicateFilter, PartitionSeen


def opened() -> DuplicateFilter:
    seen = DuplicateFilter()
    seen.begin()
    return seen


def fresh_pairs(seen: DuplicateFilter, sample: SampleBlock) -> set[tuple[int, int, int, int, int]]:
    return pairs_of(msgspec.structs.replace(sample, mask=seen.fresh(sample).astype("u1").tobytes()))


@given(seed=st.integers(0, 10_000), logs=st.integers(1, 15), crashes=st.integers(0, 4), saved=st.booleans())
def test_passes_each_pair_once_though_the_joiner_restarts(seed, logs, crashes, saved):
    seen, had = opened(), set()
    for sample in JoinerModel(seed, logs).emit(crashes):
        if saved:
            seen.trained()
            state = msgspec.msgpack.decode(
                msgspec.msgpack.encode(seen.state()), type=tuple[PartitionSeen, ...]
            )
            seen = opened()
            seen.restore(state)
            seen.begin()
        pairs = pairs_of(sample)
        assert fresh_pairs(seen, sample) == pairs - had
        had |= pairs


def test_forgets_what_lies_below_the_floor():
    seen = opened()
    for offset in range(100):
        seen.fresh(block(offset, resolved_below=offset))
    seen.trained()
    (state,) = seen.state()
    assert state.floor == 99
    assert [pairs.offset for pairs in state.seen] == [99]


def test_the_floor_of_a_block_counts_for_later_ones_only():
    seen = opened()
    assert seen.fresh(block(5, resolved_below=9)).all()
    assert not seen.fresh(block(6)).any()
    assert seen.fresh(block(9)).all()


def test_a_lower_word_does_not_lower_the_floor():
    seen = opened()
    seen.fresh(block(5, resolved_below=5))
    seen.fresh(block(6, resolved_below=2))
    assert not seen.fresh(block(4)).any()


@pytest.mark.parametrize(
    "other",
    [block(3, partition=1), block(3, index=1), block(4), block(3, rows=(4, 5, 6))],
    ids=["partition", "index in the envelope", "offset", "rows"],
)
def test_another_place_is_another_row(other):
    seen = opened()
    seen.fresh(block(3))
    assert seen.fresh(other).all()


def test_a_pair_given_twice_in_one_block_counts_once():
    fresh = opened().fresh(block(3, rows=(2, 2)))
    assert np.array_equal(fresh, [[1, 1], [0, 0]])


def test_a_row_may_come_task_by_task():
    seen = opened()
    assert np.array_equal(seen.fresh(block(3, (0,), [[1, 0]])), [[1, 0]])
    assert np.array_equal(seen.fresh(block(3, (0,), [[1, 1]])), [[0, 1]])
    assert not seen.fresh(block(3, (0,), [[1, 1]])).any()


@given(seed=st.integers(0, 10_000), cut=st.integers(0, 30), ahead=st.integers(0, 3))
def test_what_was_read_ahead_and_not_trained_is_read_again(seed, cut, ahead):
    """A state taken while batches are read ahead is that of the trained ones alone."""
    samples = JoinerModel(seed, 15).emit(crashes=2)
    seen, alone = DuplicateFilter(), DuplicateFilter()
    for i, sample in enumerate(samples[: cut + ahead]):
        seen.begin()
        seen.fresh(sample)
        if i < cut:
            seen.trained()
            alone.begin()
            alone.fresh(sample)
            alone.trained()
    assert seen.state() == alone.state()


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 6), min_size=1), rows=st.booleans())
def test_many_blocks_at_once_are_as_one_after_another(seed, cuts, rows):
    """Batches of any size, some trained, some read ahead; requests of one row, as nearly always, or of more."""
    samples = JoinerModel(seed, 12).emit(crashes=2)
    if not rows:
        samples = [
            msgspec.structs.replace(s, source=msgspec.structs.replace(s.source, index=i % 3), **one(s))
            for i, s in enumerate(samples)
        ]
    together, alone = DuplicateFilter(), DuplicateFilter()
    start, turn = 0, 0
    while start < len(samples):
        some = samples[start : start + cuts[turn % len(cuts)]]
        start, turn = start + len(some), turn + 1
        together.begin()
        alone.begin()
        repeated = together.take(encoded(FORM, some))
        for number, sample in enumerate(some):
            fresh = alone.fresh(sample)
            want = sample.mask_matrix() if number not in repeated else fresh
            assert np.array_equal(fresh, want)
            assert (number in repeated) == (fresh != sample.mask_matrix()).any()
            if number in repeated:
                assert repeated[number] == fresh.tobytes()
        if turn % 3:
            together.trained()
            alone.trained()
        assert together.state() == alone.state()


def one(sample: SampleBlock) -> dict[str, bytes]:
    """The columns of the first row alone."""
    features = sample.features.narrowed([0], len(sample))
    cells = {"rows": 2, "items": 8, "positions": 2, "labels": 8, "mask": 2, "log_keep": 4, "propensities": 4}
    return {name: getattr(sample, name)[:size] for name, size in cells.items()} | {"features": features}

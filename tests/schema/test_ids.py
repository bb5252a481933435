"""Feature ids and partition keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.ids import feature_id, feature_ids, murmur2, partition_of, slot_of, user_key

slots = st.integers(0, 65535)


@given(slot=slots, value=st.integers(0, 2**48 - 1))
def test_a_small_integer_goes_in_as_it_is(slot: int, value: int) -> None:
    feature = feature_id(slot, value)
    assert slot_of(feature) == slot
    assert feature & (2**48 - 1) == value


@given(slot=slots, value=st.text(max_size=20) | st.integers(max_value=-1) | st.integers(min_value=2**48))
def test_any_other_value_stays_within_its_slot(slot: int, value: int | str) -> None:
    feature = feature_id(slot, value)
    assert 0 <= feature < 2**64
    assert slot_of(feature) == slot
    assert feature == feature_id(slot, value)


@given(slot=slots, values=st.lists(st.text(max_size=5) | st.integers(-(2**50), 2**50), max_size=5))
def test_many_values_have_the_ids_of_each(slot: int, values: list[int | str]) -> None:
    assert feature_ids(slot, values) == tuple(feature_id(slot, v) for v in values)


def test_hashed_values_spread() -> None:
    assert len({feature_id(1, f"value-{i}") for i in range(50_000)}) == 50_000


@pytest.mark.parametrize("slot", [-1, 65536])
def test_a_slot_out_of_bounds_is_named(slot: int) -> None:
    with pytest.raises(ValueError, match=f"slot: {slot}; legal is 0 to 65535"):
        feature_id(slot, 1)


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_partitioner_hashes_as_kafka_publishes(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@given(user=st.integers(0, 2**63 - 1), partitions=st.integers(1, 1000))
def test_a_user_has_one_partition(user: int, partitions: int) -> None:
    assert partition_of(user, partitions) == (murmur2(user_key(user)) & 0x7FFFFFFF) % partitions

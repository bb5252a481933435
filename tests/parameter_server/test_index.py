"""The cuckoo index against a dict: mixed operations, kicks, doubling, load."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.index import CuckooIndex
from parameter_server.kernels import cuckoo, search
from parameter_server.kernels.cuckoo import RECORD

OPERATIONS = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 300) | st.integers(0, 2**64 - 1), max_size=60)),
    max_size=12,
)


def records_of(ids: np.ndarray) -> np.ndarray:
    records = np.zeros(RECORD * len(ids), np.uint64)
    records[::RECORD] = ids
    return records


class Harness:
    """An index beside a dict, with an id column that never reuses rows."""

    def __init__(self, rows: int = 100_000) -> None:
        self.index = CuckooIndex(1)
        self.records = np.zeros(RECORD * rows, np.uint64)
        self.ids = self.records[::RECORD]
        self.rows: dict[int, int] = {}
        self.used = 0

    def insert(self, wanted: list[int]) -> None:
        new = [i for i in dict.fromkeys(wanted) if i not in self.rows]
        rows = np.arange(self.used, self.used + len(new))
        self.used += len(new)
        self.ids[rows] = np.array(new, np.uint64)
        self.index.insert(self.records, rows)
        self.rows.update(zip(new, rows.tolist(), strict=True))

    def remove(self, unwanted: list[int]) -> None:
        expected = [self.rows.pop(i) for i in dict.fromkeys(unwanted) if i in self.rows]
        assert self.index.remove(self.records, np.array(unwanted, np.uint64)).tolist() == expected

    def check(self, probes: list[int]) -> None:
        wanted = [*self.rows, *probes]
        found = self.index.find(self.records, np.array(wanted, np.uint64))
        assert found.tolist() == [self.rows.get(i, -1) for i in wanted]
        self.index.check_integrity(self.records, np.array(sorted(self.rows.values()), np.int64))
        assert len(self.index) == len(self.rows)


@given(OPERATIONS)
def test_it_is_a_dict(operations: list[tuple[bool, list[int]]]) -> None:
    harness = Harness(1000)
    for remove, ids in operations:
        (harness.remove if remove else harness.insert)(ids)
        harness.check(ids)


def test_a_long_history_with_growth_loses_nothing() -> None:
    rng = np.random.default_rng(1)
    harness = Harness()
    for _ in range(30):
        harness.insert(rng.integers(0, 30_000, 2500).tolist())
        harness.remove(rng.integers(0, 30_000, 1000).tolist())
        harness.check(rng.integers(0, 60_000, 500).tolist())
    assert len(harness.index) > 15_000


@pytest.mark.parametrize("stride", [1, 1 << 48, 1 << 16, 7919])
def test_regular_ids_fill_it_as_well_as_random_ones(stride: int) -> None:
    ids = np.arange(40_000, dtype=np.uint64) * np.uint64(stride)
    ids = np.unique(ids)
    index = CuckooIndex(len(ids))
    index.insert(records_of(ids), np.arange(len(ids)))
    index.check_integrity(records_of(ids), np.arange(len(ids)))
    assert index.load > 0.45 or len(ids) < 40_000


def test_load_at_the_first_failed_insert_is_at_least_95_percent() -> None:
    slots = np.zeros(4 << 17, np.uint64)
    ids = np.random.default_rng(2).integers(0, 2**63, len(slots), dtype=np.uint64)
    records, sequence = records_of(ids), np.zeros(1, np.uint64)
    reached = cuckoo.insert(slots, sequence, records, np.arange(len(ids)), 0)
    assert reached / len(slots) >= 0.95
    rows = np.empty(reached, np.int64)
    search.find(slots[:0], slots, sequence, records, ids[:reached], np.empty(reached, np.uint64), rows)
    assert np.array_equal(rows, np.arange(reached)), "kicks up to the limit lost an id"


def test_rows_beyond_32_bits_are_kept() -> None:
    assert int(cuckoo.ROW_MASK) == 2**56 - 1


def test_damage_is_noticed() -> None:
    harness = Harness(100)
    harness.insert(list(range(20)))
    taken = np.flatnonzero(harness.index.view.new)[0]
    harness.index.view.new[taken] ^= np.uint64(1) << np.uint64(60)
    with pytest.raises(AssertionError, match="not found"):
        harness.index.check_integrity(harness.records, np.arange(20))


def test_read_only_ids_are_accepted() -> None:
    harness = Harness(100)
    harness.insert([5])
    wanted = np.array([5, 6], np.uint64)
    wanted.flags.writeable = False
    assert harness.index.find(harness.records, wanted).tolist() == [0, -1]

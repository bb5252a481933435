"""The cuckoo index against a dict: mixed operations, kicks, doubling, load."""

from __future__ import annotations

import mmap
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.index import CuckooIndex
from parameter_server.kernels import cuckoo, search
from parameter_server.kernels.cuckoo import RECORD

MAP_NORESERVE = 0x4000
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


def test_rows_beyond_32_bits_are_found_moved_and_removed() -> None:
    """A column of 2^33 records, of which only a few are ever touched."""
    every = np.concatenate([np.arange(2**31 - 60, 2**31 + 60), np.arange(2**33 - 120, 2**33)])
    size = 8 * RECORD * 2**33
    region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    records = np.frombuffer(region, np.uint64)
    ids = np.random.default_rng(4).integers(1, 2**63, len(every), dtype=np.uint64)
    records[RECORD * every] = ids
    index = CuckooIndex(1)
    index.insert(records, every)
    assert np.array_equal(index.find(records, ids), every)
    moved = 2**33 - 1000 + np.arange(50)
    records[RECORD * moved] = ids[:50]
    index.relocate(records, ids[:50], moved)
    assert np.array_equal(index.find(records, ids), np.concatenate([moved, every[50:]]))
    assert np.array_equal(index.remove(records, ids[100:]), every[100:])
    index.check_integrity(records, np.concatenate([moved, every[50:100]]))


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


def mixed(operations: int, batch: int, ids: int, seed: int) -> None:
    """Random inserts, removals and look-ups in rounds of `batch`, beside a dict, checked in whole after each."""
    rng = np.random.default_rng(seed)
    index = CuckooIndex(1)
    records = np.zeros(RECORD * ids, np.uint64)
    column = records[::RECORD]
    every = np.unique(rng.integers(0, 2**64 - 1, ids, dtype=np.uint64))
    column[: len(every)] = every
    inside = np.zeros(len(every), np.bool_)  # row i, if it is in the index, has id i: a dict by position
    rounds = -(-operations // batch)
    for number in range(rounds):
        chosen = rng.choice(len(every), batch, replace=False)
        grows = np.sin(number / rounds * 20) > -0.2
        if number % 3 == 2:
            found = index.find(records, every[chosen])
            assert np.array_equal(found, np.where(inside[chosen], chosen, -1))
        elif grows:
            new = chosen[~inside[chosen]]
            index.insert(records, new)
            inside[new] = True
        else:
            gone = index.remove(records, every[chosen])
            assert np.array_equal(np.sort(gone), np.sort(chosen[inside[chosen]]))
            inside[chosen] = False
        index.check_integrity(records, np.flatnonzero(inside))


def test_many_mixed_operations_equal_a_dict() -> None:
    mixed(200_000, 1000, 30_000, 1)


@pytest.mark.slow
def test_ten_million_mixed_operations_equal_a_dict() -> None:
    mixed(10_000_000, 40_000, 1_000_000, 2)


def test_readers_never_miss_an_id_that_is_there_while_others_come_and_go() -> None:
    rng = np.random.default_rng(3)
    ids = np.unique(rng.integers(0, 2**64 - 1, 60_000, dtype=np.uint64))
    records = records_of(ids)
    index = CuckooIndex(1, chunk=64)
    resident = np.arange(2000)
    index.insert(records, resident)
    stop, misses, looks = threading.Event(), [], [0]

    def read() -> None:
        wanted = ids[resident]
        while not stop.is_set():
            if not np.array_equal(index.find(records, wanted), resident):
                misses.append(looks[0])
            looks[0] += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(3):  # up through many doublings, and down again
            for start in range(2000, len(ids) - 300, 300):
                index.insert(records, np.arange(start, start + 300))
            last = start + 300
            for start in range(2000, last, 300):
                index.remove(records, ids[start : min(start + 300, last)])
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    assert looks[0] > 10
    assert misses == []
    index.check_integrity(records, resident)

"""Admission, expiry, the memory budget, and rows that grow and shrink in width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parameter_server import contents
from parameter_server.shard import MAINTAIN_EVERY, MAINTAIN_IDS, Shard
from parameter_server.table import Table
from schema.config import AdmissionConfig, OptimizerConfig, SlotRowsConfig, TableConfig
from tests.parameter_server import cases
from tests.parameter_server.cases import u64
from tests.parameter_server.naive import first_vector

SGD = OptimizerConfig(kind="sgd", learning_rate=0.5)
ALL = 1 << 20


def make(dim: int = 8, **more: Any) -> Table:
    return Table(TableConfig(name="t", dim=dim, capacity=16, optimizer=SGD, **more), 100_000)


def sized(**more: Any) -> Table:
    return make(widths=(2, 4, 8), grow_at=(3, 6), **more)


def push(table: Table, ids: list[int], clock: int, now: int = 0, value: float = 1.0) -> None:
    table.push(u64(ids), np.full((len(ids), table.config.dim), value, np.float32), clock, now)


def held(table: Table) -> dict[int, int]:
    """The width of each id with a row."""
    rows = contents.taken(table._rows, table._rows.live())
    return dict(zip(rows.ids.tolist(), rows.widths.tolist(), strict=True))


@pytest.mark.parametrize("threshold", [1, 2, 255])
def test_an_id_is_admitted_at_its_threshold_th_push(threshold: int) -> None:
    table = make(admission=AdmissionConfig(kind="count", threshold=threshold))
    for clock in range(1, threshold):
        push(table, [7, 7], clock)
        assert len(table) == 0
        assert table.why(7).sightings == clock
    push(table, [7], threshold)
    assert list(held(table)) == [7]
    assert table.why(7).sightings == 0
    assert table.counters.not_admitted == threshold - 1


def test_until_admitted_an_id_has_its_first_vector() -> None:
    table = make(admission=AdmissionConfig(kind="count", threshold=2))
    push(table, [7], 1)
    assert np.array_equal(table.pull(u64([7]))[0], first_vector(0, 7, 8, 0.01))


def test_counts_are_halved_with_time() -> None:
    table = make(admission=AdmissionConfig(kind="count", threshold=10, ageing_seconds=60))
    table.maintain(0, 1, ALL)
    for clock in range(1, 6):
        push(table, [1], clock)
    push(table, [2], 6)
    table.maintain(59_999, 7, ALL)
    assert table.why(1).sightings == 5
    table.maintain(60_000, 7, ALL)
    assert (table.why(1).sightings, table.why(2).sightings) == (2, 0)


def test_admission_by_probability_admits_that_share_alike_in_any_order() -> None:
    admission = AdmissionConfig(kind="probability", probability=0.25)
    ids = list(range(4000))
    one, other = make(admission=admission), make(admission=admission)
    push(one, ids, 1)
    for start in range(3990, -1, -10):
        push(other, ids[start : start + 10], 1)
    assert held(one) == held(other)
    assert 0.22 < len(one) / len(ids) < 0.28


def test_a_count_that_is_full_admits_whatever_the_odds() -> None:
    table = make(admission=AdmissionConfig(kind="probability", probability=1e-12))
    for clock in range(1, 255):
        push(table, [7], clock)
        assert (len(table), table.why(7).sightings) == (0, clock)
    push(table, [7], 255)
    assert list(held(table)) == [7]


def test_candidates_are_bounded_and_saved() -> None:
    admission = AdmissionConfig(kind="count", threshold=3, candidates=2000)
    table = make(admission=admission)
    for clock in range(1, 11):
        push(table, list(range(clock * 1000, clock * 1000 + 1000)), clock)
    ids, counts = table.candidates()
    assert len(ids) <= 4000
    other = make(admission=admission)
    other.load_candidates(ids, counts)
    assert {int(i): other.why(int(i)).sightings for i in ids[:20]} == {
        int(i): int(c) for i, c in zip(ids[:20], counts[:20], strict=True)
    }


def test_rows_expire_by_event_time_as_their_slot_says() -> None:
    slots = {1: SlotRowsConfig(ttl_seconds=100)}
    table = make(ttl_seconds=10, slots=slots)
    short, long = 5, 1 << 48 | 5
    push(table, [short, long], 1, now=1000)
    assert table.why(short).expires_at == 11_000
    assert not table.maintain(11_000, 2, ALL).changed
    done = table.maintain(12_000, 2, ALL)
    assert done.evicted.tolist() == [short]
    assert table.tombstones.since(1).tolist() == [short]
    assert table.maintain(102_000, 3, ALL).evicted.tolist() == [long]
    assert (len(table), table.counters.expired) == (0, 2)
    push(table, [short], 4, now=103_000)
    assert np.allclose(table.pull(u64([short]))[0], first_vector(0, short, 8, 0.01) - 0.5)


def test_expiry_is_bounded_and_gets_round() -> None:
    table = make(ttl_seconds=1)
    push(table, list(range(1000)), 1)
    sizes = []
    for clock in range(2, 40):
        table.maintain(10_000, clock, 50)
        sizes.append(len(table))
        table.check_integrity()
    assert sizes[0] == 950
    assert sizes[-1] == 0


def test_a_table_whose_rows_live_for_ever_drops_none_that_had_expired_before_its_restart() -> None:
    before, after = make(ttl_seconds=10), make()
    push(before, list(range(1, 9)), 1)
    before.maintain(20_000, 2, 3)
    left = before.upkeep()
    assert len(left["expired"]) == 5
    push(after, list(held(before)), 1)
    after.load_upkeep(left)
    assert len(after.maintain(20_000, 2, ALL).evicted) == 0
    assert len(after) == 5


def test_above_its_budget_a_table_drops_the_least_recently_used_to_a_tenth_below() -> None:
    table = make(memory_mb=0.1)
    for clock in range(1, 41):
        push(table, list(range(clock * 100, clock * 100 + 100)), clock, now=clock * 1000)
    assert table.bytes > 0.1 * 2**20
    for clock in range(41, 141):
        table.maintain(41_000, clock, 64)
    assert 0.85 * 0.1 * 2**20 < table.bytes <= 0.1 * 2**20
    kept = held(table)
    oldest = min(kept) // 100
    assert kept.keys() >= set(range(100 * oldest + 100, 4100)), "the newest stay"
    evicted = table.counters.evicted
    table.maintain(42_000, 141, 64)
    assert table.counters.evicted == evicted, "a tenth below: hysteresis"


@pytest.mark.parametrize("new_ids", [200, 1000, 30_000])
@pytest.mark.parametrize("widths", [(), (4, 8, 16)])
def test_no_rate_of_new_ids_outgrows_the_budget(new_ids: int, widths: tuple[int, ...]) -> None:
    budget = 2 << 20
    steps = (2, 4)[: len(widths) - 1] if widths else ()
    config = TableConfig(name="t", dim=16, capacity=16, memory_mb=2, widths=widths, grow_at=steps)
    shard = Shard(cases.config(tables=(config,)), 0)
    wide, largest = 34 + 16 + 4 * 17, 0
    for step in range(60_000 // new_ids + 10):
        ids = np.arange(step * new_ids, (step + 1) * new_ids, dtype=np.uint64)
        often = u64(range(2**40, 2**40 + 300))  # which grow, where rows do
        both = np.concatenate([ids, often])
        shard.push("a", step, {"t": (both, np.ones((len(both), 16), np.float32))}, step * 1000)
        largest = max(largest, shard.byte_counts()["t"])
    between = min(MAINTAIN_EVERY * (new_ids + 300), MAINTAIN_IDS + new_ids + 300)
    assert budget < largest <= budget + between * wide
    assert shard.counters()["t"].evicted > 0
    assert len(shard.tables["t"]) < len(ids) + (budget + between * wide) // 34
    shard.check_integrity()


def test_a_budget_holds_though_the_clock_has_gone_back() -> None:
    """As after a restore, when the first push to come is an old one."""
    table = make(memory_mb=0.1)
    push(table, list(range(4000)), 1, now=9_000_000)
    table.maintain(1000, 2, 64)
    assert table.bytes <= 0.1 * 2**20


def test_no_rate_of_new_ids_outgrows_expiry() -> None:
    shard = Shard(cases.config(tables=(TableConfig(name="t", dim=2, capacity=16, ttl_seconds=2),)), 0)
    for step in range(300):
        ids = np.arange(step * 500, (step + 1) * 500, dtype=np.uint64)
        shard.push("a", step, {"t": (ids, np.ones((500, 2), np.float32))}, step * 100)
    # 20,000 are young at most, in whole seconds; what is not, a round of the scan finds
    assert len(shard.tables["t"]) <= 40_000


def test_under_a_budget_the_least_used_shrink_before_any_goes() -> None:
    table = sized(memory_mb=0.058)
    often, seldom = list(range(300)), list(range(1000, 1300))
    for clock in range(1, 8):
        push(table, often, clock)
        if clock % 2:
            push(table, seldom, clock)
    for clock in range(8, 60):
        push(table, often, clock)
    push(table, [2**40 + i for i in range(300)], 60)
    for clock in range(61, 90):
        table.maintain(0, clock, 64)
        table.check_integrity()
    widths = held(table)
    assert table.counters.demoted > 0
    assert np.mean([widths.get(i, 0) for i in often]) > np.mean([widths.get(i, 0) for i in seldom])


def test_demotion_goes_to_a_tenth_below_the_budget_and_then_stops() -> None:
    table = sized(memory_mb=0.1)
    ids = list(range(1300))
    for clock in range(1, 7):
        push(table, ids, clock)
    assert set(held(table).values()) == {8}
    assert table.bytes > 0.1 * 2**20
    push(table, ids[-50:], 7)
    for clock in range(8, 40):
        before = table.counters.demoted
        table.maintain(0, clock, 64)
        if table.counters.demoted == before:
            break
        push(table, ids[-50:], clock)  # while it is on its way down no row grows
        assert table.counters.grown == 2 * len(ids)
    assert 0.85 * 0.1 * 2**20 < table.bytes <= 0.9 * 0.1 * 2**20
    assert (len(table), table.counters.evicted) == (1300, 0)
    assert {held(table)[i] for i in ids[-50:]} == {8}, "the most used stay wide"
    for clock in range(40, 60):
        push(table, ids[:1], clock)
        assert not table.maintain(0, clock, 64).changed, "a row that grows again is no reason to demote"
    assert held(table)[0] == 8, "it has earned its width anew"


def test_a_row_grows_at_its_counts_and_what_it_had_keeps_its_bits() -> None:
    table = sized()
    widths, before = [], table.pull(u64([9]))
    assert before[0, 2:].tolist() == [0] * 6
    for clock in range(1, 8):
        push(table, [9], clock, value=0.0)
        widths.append(held(table)[9])
        assert np.array_equal(table.pull(u64([9])).view(np.uint32), before.view(np.uint32))
        table.check_integrity()
    assert widths == [2, 2, 4, 4, 4, 8, 8]
    assert table.counters.grown == 2


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "adam", "ftrl"])
def test_growth_carries_vector_and_state_over(kind: Any) -> None:
    table = Table(
        TableConfig(
            name="t",
            dim=8,
            widths=(2, 8),
            grow_at=(1000,),
            optimizer=OptimizerConfig(kind=kind, initial_accumulator=0.5),
        ),
        10,
    )
    rng = np.random.default_rng(5)
    for clock in range(1, 4):
        table.push(u64(range(40)), rng.normal(size=(40, 8)).astype(np.float32), clock, 0)
    store = table._rows
    rows = store.find(u64(range(0, 40, 2)))
    before = contents.taken(store, rows)
    contents.resize_rows(store, rows, np.ones(len(rows), np.int64))
    after = contents.taken(store, rows)
    assert np.array_equal(before.vectors.view(np.uint32), after.vectors.view(np.uint32))
    assert set(after.widths.tolist()) == {8}
    rule = store.optimizers.rules[0]
    for block in range(len(rule.blocks)):
        old, new = before.state[:, block * 2 : block * 2 + 2], after.state[:, block * 8 : block * 8 + 8]
        assert np.array_equal(old, new[:, :2])
        assert (new[:, 2:] == np.float32(rule.blocks[block])).all()
    if rule.scalars:
        assert np.array_equal(before.state[:, len(rule.blocks) * 2], after.state[:, len(rule.blocks) * 8])
    contents.resize_rows(store, rows, np.zeros(len(rows), np.int64))
    again = contents.taken(store, rows)
    assert np.array_equal(again.vectors, before.vectors)
    assert np.array_equal(again.state, before.state)
    table.check_integrity()


class Slow:
    """A table of several widths as a dict, by SGD: id to vector, uses and last use."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        self.rows: dict[int, tuple[np.ndarray, int, int]] = {}

    def push(self, ids: list[int], value: float, second: int) -> None:
        for wanted in set(ids):
            vector, uses, last = self.rows.get(
                wanted, (first_vector(0, wanted, self.config.classes[0], 0.01), 0, 0)
            )
            vector = vector - np.float32(0.5 * value * ids.count(wanted))
            width = self.config.classes[int(np.searchsorted(self.config.grow_at, uses + 1, "right"))]
            grown = np.zeros(max(width, len(vector)), np.float32)
            grown[: len(vector)] = vector
            self.rows[wanted] = grown, uses + 1, max(last, second)

    def expire(self, second: int, ttl: int) -> list[int]:
        gone = sorted(i for i, (_, _, last) in self.rows.items() if second - last > ttl)
        for wanted in gone:
            del self.rows[wanted]
        return gone

    def demote(self, wanted: int) -> None:
        vector, _, last = self.rows[wanted]
        number = max(self.config.classes.index(len(vector)) - 1, 0)
        earned = [0, *self.config.grow_at]
        self.rows[wanted] = vector[: self.config.classes[number]], earned[number], last


IDS = st.lists(st.integers(0, 60), max_size=40)
OPERATIONS = st.lists(
    st.tuples(st.just("push"), IDS)
    | st.tuples(st.just("evict"), IDS)
    | st.tuples(st.just("demote"), IDS)
    | st.tuples(st.just("expire"), st.integers(1, 8)),
    max_size=25,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_mixed_operations_equal_a_dict(operations: list[tuple[str, Any]]) -> None:
    table = sized(ttl_seconds=5)
    slow, now = Slow(table.config), 0
    for clock, (name, argument) in enumerate(operations, 1):
        if name == "push":
            push(table, argument, clock, now * 1000, value=0.25)
            slow.push(argument, 0.25, now)
        elif name == "evict":
            expected = {i for i in argument if slow.rows.pop(i, None) is not None}
            assert table.remove(u64(argument), clock) == len(expected)
        elif name == "demote":
            rows = table._rows.find(u64(sorted(set(argument))))
            rows = rows[rows >= 0]
            rows = rows[table._rows.placement.classes(rows) > 0]
            for wanted in table._rows.ids[rows].tolist():
                slow.demote(wanted)
            table._demote(rows, clock)
        else:
            now += argument
            assert sorted(table.maintain(now * 1000, clock, ALL).evicted.tolist()) == slow.expire(now, 5)
        table.check_integrity()
    assert held(table) == {i: len(vector) for i, (vector, _, _) in slow.rows.items()}
    for wanted, (vector, uses, last) in slow.rows.items():
        pulled = table.pull(u64([wanted]))[0]
        assert np.allclose(pulled[: len(vector)], vector, atol=1e-5)
        assert not pulled[len(vector) :].any()
        assert (table.why(wanted).uses, table.why(wanted).last_use) == (uses, last * 1000)


def test_a_table_that_empties_gives_its_memory_back_and_loses_nothing() -> None:
    table = make()
    push(table, list(range(20_000)), 1)
    grown = len(table._rows.records)
    table.remove(u64(range(19_000)), 2)
    before = table.pull(u64(range(20_000)))
    for clock in range(3, 100):
        table.maintain(0, clock, 1000)
        table.pack(1000)
    table.check_integrity()
    assert len(table._rows.records) <= grown // 8
    assert np.array_equal(table.pull(u64(range(20_000))), before)

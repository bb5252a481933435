"""A table: pulls, pushes, removals and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server import contents, digests
from parameter_server.errors import InvalidRequest
from parameter_server.store import RowStore
from parameter_server.table import Table
from schema.config import OptimizerConfig, TableConfig
from tests.parameter_server.cases import SMALL, gradients, u64
from tests.parameter_server.naive import NaiveTable, digest, first_vector


def make(config: TableConfig = SMALL, tombstones_kept: int = 100) -> Table:
    return Table(config, tombstones_kept)


def columns(table: Table, clock: int) -> SimpleNamespace:
    """Every column of the rows with a version above `clock`."""
    return SimpleNamespace(**table.copied(table.newer(clock), table.column_names))


def oracle(config: TableConfig = SMALL) -> NaiveTable:
    o = config.optimizer
    return NaiveTable(
        dim=config.dim,
        seed=config.seed,
        scale=config.init_scale,
        rate=o.learning_rate,
        start=o.initial_accumulator,
        epsilon=o.epsilon,
    )


def test_a_pull_of_unseen_ids_gives_first_vectors_and_creates_nothing() -> None:
    table = make()
    ids = [3, 2**63, 3, 0]
    expected = [first_vector(SMALL.seed, i, SMALL.dim, SMALL.init_scale) for i in ids]
    assert np.array_equal(table.pull(u64(ids)), expected)
    assert len(table) == 0
    assert table.pull(u64([])).shape == (0, SMALL.dim)


ROUNDS = st.lists(
    st.tuples(st.lists(st.integers(0, 40), max_size=30), st.lists(st.integers(0, 40), max_size=8)),
    max_size=8,
)


@given(ROUNDS, st.integers(0, 9))
def test_pushes_and_removals_equal_the_oracle(rounds: list[tuple[list[int], list[int]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, expected = make(), oracle()
    for clock, (pushed, removed) in enumerate(rounds, 1):
        values = gradients(rng, len(pushed))
        table.push(u64(pushed), values, clock, event_time=clock)
        expected.push(pushed, values)
        assert table.remove(u64(removed), clock) == expected.remove(removed)
        table.check_integrity()
    assert len(table) == len(expected.rows)
    assert np.allclose(table.pull(u64(range(45))), expected.pull(range(45)), atol=1e-5)


def test_equal_ids_are_summed_before_squaring() -> None:
    once, twice = make(), make()
    g = np.array([[1, -2, 3, 0.5]], np.float32)
    twice.push(u64([9, 9]), np.concatenate([g, g]), 1, 0)
    once.push(u64([9]), 2 * g, 1, 0)
    assert np.array_equal(once.pull(u64([9])), twice.pull(u64([9])))


def test_a_push_sets_version_and_last_use_of_its_rows_alone() -> None:
    table = make()
    table.push(u64([1, 2]), np.ones((2, 4), np.float32), 1, event_time=5000)
    table.push(u64([2, 3]), np.ones((2, 4), np.float32), 2, event_time=4000)
    rows = columns(table, 0)
    state = {int(i): (int(v), int(t)) for i, v, t in zip(rows.ids, rows.versions, rows.last_use, strict=True)}
    assert state == {1: (1, 5000), 2: (2, 5000), 3: (2, 4000)}
    assert sorted(columns(table, 1).ids.tolist()) == [2, 3]


def test_a_reused_row_starts_afresh() -> None:
    table, fresh = make(), make()
    ones = np.ones((1, 4), np.float32)
    table.push(u64([1]), ones, 1, event_time=900)
    table.remove(u64([1]), 2)
    for t in (table, fresh):
        t.push(u64([2]), ones, 3, event_time=5)
    assert np.array_equal(table.pull(u64([2])), fresh.pull(u64([2])))
    assert columns(table, 0).state.tolist() == columns(fresh, 0).state.tolist()
    assert columns(table, 0).last_use.tolist() == [1000], "whole seconds, rounded up"


def test_it_grows_far_beyond_its_capacity() -> None:
    table = make()
    rng = np.random.default_rng(0)
    expected = oracle()
    for clock in range(1, 9):
        ids = rng.integers(0, 2**63, 500, dtype=np.uint64)
        values = gradients(rng, 500)
        table.push(ids, values, clock, 0)
        expected.push(ids.tolist(), values)
    table.check_integrity()
    everything = list(expected.rows)
    assert len(table) == len(everything) == 4000
    assert np.allclose(table.pull(u64(everything)), expected.pull(everything), atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        (np.array([1], np.int64), np.ones((1, 4), np.float32), r"ids: int64 \(1,\); legal is uint64"),
        (np.ones((1, 1), np.uint64), np.ones((1, 4), np.float32), r"ids: uint64 \(1, 1\)"),
        (u64([1]), np.ones((1, 4), np.float64), r"gradients: float64 .* legal is float32 \(1, 4\)"),
        (u64([1]), np.ones((1, 5), np.float32), r"gradients: float32 \(1, 5\)"),
        (u64([1, 2]), np.ones((1, 4), np.float32), r"gradients: float32 \(1, 4\).* \(2, 4\)"),
        (u64([1, 77]), np.array([[1] * 4, [0, np.nan, 0, 0]], np.float32), "id 77 has"),
        (u64([78, 2, 78]), np.array([[3e38] * 4, [1] * 4, [3e38] * 4], np.float32), "id 78 has"),
    ],
)
def test_a_malformed_push_is_refused_and_changes_nothing(
    ids: np.ndarray, values: np.ndarray, message: str
) -> None:
    table = make()
    table.push(u64([1]), np.ones((1, 4), np.float32), 1, 0)
    before = table.digest("fp32")
    with pytest.raises(InvalidRequest, match=f"table embedding: .*{message}") as refusal:
        table.push(ids, values, 2, 0)
    assert isinstance(refusal.value, ValueError)
    assert (table.digest("fp32"), len(table)) == (before, 1)


def test_a_malformed_pull_or_removal_is_refused() -> None:
    table = make()
    for call in (table.pull, lambda ids: table.remove(ids, 1)):
        with pytest.raises(InvalidRequest, match="ids: float32"):
            call(np.ones(1, np.float32))


def test_digest_is_of_content_not_of_history_or_state() -> None:
    table = make()
    rng = np.random.default_rng(3)
    for clock in range(1, 6):
        ids = rng.integers(0, 50, 20, dtype=np.uint64)
        table.push(ids, gradients(rng, 20), clock, 0)
    table.remove(u64(range(10)), 6)
    rows = columns(table, 0)
    replica = RowStore(SMALL, state=False)
    order = rng.permutation(len(rows.ids))
    contents.upsert(replica, rows.ids[order], rows.vectors[order], 1)
    content = dict(zip(rows.ids.tolist(), rows.vectors, strict=True))
    assert table.digest("fp32") == digests.digest(replica, replica.live(), lambda v: v) == digest(content)


def test_saved_rows_load_into_an_equal_table() -> None:
    table, loaded = make(), make()
    rng = np.random.default_rng(4)
    table.push(u64(range(100)), gradients(rng, 100), 1, event_time=7)
    loaded.restore(u64([]), table.copied(table.newer(0), table.column_names))
    g = gradients(rng, 100)
    for t in (table, loaded):
        t.push(u64(range(100)), g, 2, 8)
    assert table.digest("fp32") == loaded.digest("fp32")
    loaded.check_integrity()


def test_the_optimizer_is_as_configured() -> None:
    optimizer = OptimizerConfig(learning_rate=0.5, initial_accumulator=3.0, epsilon=1.0)
    table = make(TableConfig(name="t", dim=1, init_scale=0.0, optimizer=optimizer, capacity=16))
    table.push(u64([1]), np.ones((1, 1), np.float32), 1, 0)
    assert table.pull(u64([1]))[0, 0] == pytest.approx(-0.5 / (2 + 1))

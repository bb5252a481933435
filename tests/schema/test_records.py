"""Records say what is wrong with their columns."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.records import FeatureLog, Features, IdColumn, ModelVersion, SampleBlock, Source, column
from tests.schema import records


@given(log=records.feature_logs())
def test_a_whole_feature_log_has_no_problem(log: FeatureLog) -> None:
    assert log.problem() is None


@given(block=records.sample_blocks())
def test_a_whole_block_has_no_problem(block: SampleBlock) -> None:
    assert block.problem() is None
    assert block.label_matrix().shape == block.mask_matrix().shape == (len(block), 2)


GOOD = FeatureLog(
    "r",
    1,
    5,
    0,
    ModelVersion(),
    column([10, 11], "<i8"),
    column([0, 1], "<u2"),
    Features(
        (IdColumn(1, column([7], "<u8")),), (IdColumn(2, column([8, 9], "<u8")),), b"", column([1, 2], "<f4")
    ),
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"items": b""}, "items"),
        ({"items": b"1234567"}, "items"),
        ({"positions": b"1"}, "positions"),
        ({"scores": b"12345"}, "scores"),
        ({"features": Features((IdColumn(1, b"short"),))}, "features"),
        ({"features": Features((), (IdColumn(2, column([8], "<u8")),))}, "features"),
        ({"features": Features((), (IdColumn(2, column([8], "<u8"), column([3, 0], "<u2")),))}, "features"),
        ({"features": Features((), (), b"123")}, "features"),
        ({"features": Features((), (), b"", column([1], "<f4"))}, "features"),
    ],
)
def test_a_column_of_the_wrong_size_is_named(change: dict[str, object], named: str) -> None:
    assert GOOD.problem() is None
    problem = msgspec.structs.replace(GOOD, **change).problem()
    assert problem is not None
    assert problem.startswith(named)


BLOCK = SampleBlock(
    Source(0, 3), 0, 5, "r", 1, 5, 0, ("click",),
    column([0, 1], "<u2"), column([10, 11], "<i8"), column([0, 1], "<u2"), GOOD.features,
    column([1, 0], "<f4"), b"\1\1", bytes(8), b"", b"\0\0", -1, column([0.5, 1], "<f4"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"items": b"1234567"}, "items: 7 bytes; legal is a multiple of 8 above 0"),
        ({"rows": b""}, "rows: 0 bytes for 2 rows; legal is 4"),
        ({"positions": b"1"}, "positions: 1 bytes for 2 rows; legal is 4"),
        ({"labels": b"1"}, "labels: 1 bytes for 2 rows; legal is 8"),
        ({"mask": b"1"}, "mask: 1 bytes for 2 rows; legal is 2"),
        ({"log_keep": b""}, "log_keep: 0 bytes for 2 rows; legal is 8"),
        ({"retract": b"1"}, "retract: 1 bytes for 2 rows; legal is 2, or none"),
        ({"propensities": b"1234"}, "propensities: 4 bytes for 2 rows; legal is 8, or none"),
        ({"features": Features((IdColumn(1, b"short"),))}, "features: a column does not hold 2 rows"),
    ],
)
def test_a_column_of_a_block_of_the_wrong_size_is_named(change: dict[str, object], problem: str) -> None:
    assert BLOCK.problem() is None
    assert msgspec.structs.replace(BLOCK, **change).problem() == problem


def test_row_lengths_default_to_one_id_a_row() -> None:
    assert IdColumn(1, column([4, 5], "<u8")).row_lengths(2).tolist() == [1, 1]
    assert IdColumn(1, column([4, 5], "<u8"), column([2, 0], "<u2")).row_lengths(2).tolist() == [2, 0]
    assert IdColumn(1, column([2**64 - 1], "<u8")).values() == np.array([2**64 - 1], np.uint64)


@given(log=records.feature_logs(), data=st.data())
def test_narrowed_features_are_those_of_the_rows(log: FeatureLog, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(log) - 1), min_size=1, max_size=5))
    narrow = log.features.narrowed(rows, len(log))
    assert narrow.fits(len(rows))
    assert narrow.context == log.features.context
    for column_, whole in zip(narrow.items, log.features.items, strict=True):
        mine = np.split(column_.values(), np.cumsum(column_.row_lengths(len(rows)))[:-1])
        its = np.split(whole.values(), np.cumsum(whole.row_lengths(len(log)))[:-1])
        assert [part.tolist() for part in mine] == [its[row].tolist() for row in rows]

"""Records say what is wrong with their columns."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.records import FeatureLog, Features, IdColumn, ModelVersion, SampleBlock, column
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

"""The samples of a step that are told of, and when the shards had them."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from schema.stages import Traced, trace_name, trace_of
from tests.trainer.make import block
from trainer.pieces import Piece, PieceRows, piece
from trainer.ways import Ways, spread

TRACED = next(name for name in (f"{i:032x}" for i in range(1000)) if trace_of(name))


def made(request_id: str, joined_at: int = 0) -> Piece:
    sample = msgspec.structs.replace(block(1), request_id=request_id)
    found = piece(sample, np.ones_like(sample.mask_matrix(), np.float32), joined_at)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("count", "most", "want"),
    [(3, 16, [0, 1, 2]), (5, 0, []), (5, 1, [0]), (5, 2, [0, 4]), (9, 3, [0, 4, 8])],
)
def test_values_are_spread_evenly(count, most, want):
    assert spread(list(range(count)), most) == want


def test_traced_requests_are_always_told_of_and_none_twice():
    ways = Ways(1)
    pieces = [made("a"), made("b"), made(TRACED, joined_at=900), made("c")]
    first, traced = ways.picked(PieceRows(pieces), 1000)
    assert first == Traced(pieces[0].event_time, pieces[0].completed_at, pieces[0].completed_at, 1000, 0)
    assert (traced.joined, traced.trace) == (900, trace_of(TRACED))
    assert len(ways.picked(PieceRows([made(TRACED)]), 1000)) == 1


def test_the_report_has_the_traced_ones_once_the_shards_do():
    ways = Ways(4)
    picked = ways.picked(PieceRows([made("a"), made(TRACED, joined_at=900)]), 1000)
    assert ways.recent() == []
    ways.published(picked, 1040)
    (way,) = ways.recent()
    assert way["trace"] == trace_name(trace_of(TRACED))
    assert (way["joined"], way["trained"], way["published"]) == (900, 1000, 1040)

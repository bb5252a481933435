"""The overlay of a round beside a dict, and a table beneath it: lookups see the round from the first moment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parameter_server.delta import Changes, Chunk, Span, sealed
from parameter_server.errors import DeltaError
from parameter_server.overlay import Overlay
from parameter_server.packing import pack
from parameter_server.replica_table import ReplicaTable
from schema.config import ReplicaRows
from tests.parameter_server import naive
from tests.parameter_server.cases import SMALL, u64

SPAN = Span(0, 1, 0, 1, full=False)
IDS = st.integers(0, 30)
CHUNKS = st.lists(st.tuples(st.lists(IDS, max_size=5), st.lists(IDS, max_size=12, unique=True)), max_size=6)
Rows = dict[int, float | None]


def chunks_of(changes: list[tuple[list[int], list[int]]]) -> tuple[list[Chunk], Rows]:
    """Chunks, and by id the value that every number of its row has after them; None for a removal."""
    chunks, expected = [], {}
    for sequence, (removed, ids) in enumerate(changes):
        values = [float(100 * sequence + i) for i in ids]
        vectors = np.repeat(np.array(values, np.float32).reshape(-1, 1), SMALL.dim, axis=1)
        chunks.append(sealed(SPAN, "embedding", sequence, Changes(u64(ids), vectors, u64(removed))))
        expected |= dict.fromkeys(removed) | dict(zip(ids, values, strict=True))
    return chunks, expected


def seen(table: ReplicaTable, ids: np.ndarray) -> list[list[float]]:
    return table.lookup(ids).tolist()


@given(CHUNKS)
def test_it_finds_the_last_change_of_each_id(changes: list[tuple[list[int], list[int]]]) -> None:
    chunks, expected = chunks_of(changes)
    overlay = Overlay(chunks)
    found = overlay.find(u64(range(40)))
    for wanted, place in enumerate(found.tolist()):
        assert (place >= 0) == (wanted in expected)
        if place >= 0:
            origin = overlay.origins[place]
            value = None if origin < 0 else overlay.vectors[origin][0]
            assert value == expected[wanted]
    target = np.zeros((40, SMALL.dim), np.float32)
    rows = np.where(overlay.ids < 20, overlay.ids, -1).astype(np.int64)  # half of the ids have a row
    left = overlay.copy_into(target, rows)
    kept = {i: value for i, value in expected.items() if i < 20 and value is not None}
    assert {i: target[i].tolist() for i in kept} == {i: [v] * SMALL.dim for i, v in kept.items()}
    assert not np.delete(target, list(kept), axis=0).any()
    assert sorted(overlay.ids[left].tolist()) == sorted(
        i for i, value in expected.items() if (i < 20) != (value is not None)
    )


@given(CHUNKS, CHUNKS, st.sampled_from(["fp32", "fp16"]))
def test_a_table_looks_the_same_with_a_round_over_it_beneath_it_and_at_every_step_between(
    before: list[tuple[list[int], list[int]]],
    after: list[tuple[list[int], list[int]]],
    form: ReplicaRows,
) -> None:
    table = ReplicaTable(SMALL, form)
    everything = u64(range(40))

    def packed(changes: list[tuple[list[int], list[int]]]) -> tuple[list[Chunk], Rows]:
        chunks, expected = chunks_of(changes)
        made = [
            sealed(SPAN, c.table, c.sequence, Changes(c.ids, pack(c.vectors, form), c.removed))
            for c in chunks
        ]
        return made, expected

    first, rows = packed(before)
    table.base = table.replaced(np.empty(0, np.int64), first)
    second, changed = packed(after)
    rows = {**rows, **changed}
    expected = [
        [rows[i]] * SMALL.dim
        if rows.get(i) is not None
        else naive.first_vector(7, i, SMALL.dim, 0.5).tolist()
        for i in range(40)
    ]
    overlay = Overlay(second)
    table.overlay = overlay
    assert seen(table, everything) == expected
    for change in table.merge(overlay, 2):
        change()
        assert seen(table, everything) == expected
    table.overlay = None
    assert seen(table, everything) == expected
    assert len(table.base) == sum(value is not None for value in rows.values())
    table.base.check_integrity()


def test_an_id_twice_in_one_chunk_is_refused() -> None:
    vectors = np.ones((3, 4), np.float32)
    chunk = sealed(SPAN, "embedding", 5, Changes(u64([1, 2, 1]), vectors, u64([])))
    with pytest.raises(DeltaError, match="chunk 5 has an id twice: 1"):
        Overlay([chunk])

"""The structure, its index, and copies that follow it by deltas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.retrieval.delta import StructureError, decode_delta
from models.retrieval.inverted import build_index
from models.retrieval.placement import random_paths
from models.retrieval.structure import PathStructure

PATHS = 30


def _contents(structure):
    ids, paths = structure.item_ids(), structure.assignments()
    return {int(i): tuple(p) for i, p in zip(ids, paths.tolist(), strict=True) if i >= 0}


def _random_change(rng, structure):
    items = rng.permutation(40)[: rng.integers(0, 12)]
    if rng.random() < 0.3:
        structure.remove(items)
    else:
        structure.assign(items, random_paths(items, PATHS, 2, int(rng.integers(1000))))


def _check_index(structure):
    index, contents = structure.index(), _contents(structure)
    ids = structure.item_ids()
    for path in range(PATHS):
        assert sorted(ids[index.on(path)]) == sorted(i for i, paths in contents.items() if path in paths)
    assert index.sizes().sum() == sum(p >= 0 for paths in contents.values() for p in paths)
    assert index.sizes().tolist() == structure.sizes().tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), removed_kept=st.sampled_from([0, 3, 1000]))
def test_copies_follow_by_deltas_whenever_they_ask(seed, removed_kept):
    rng = np.random.default_rng(seed)
    structure = PathStructure(PATHS, 2, epoch=3, removed_kept=removed_kept)
    copies = [PathStructure(PATHS, 2, removed_kept=removed_kept) for _ in range(3)]
    for _ in range(12):
        _random_change(rng, structure)
        for copy in copies:
            if rng.random() < 0.4:
                delta = structure.changes_since(copy.version, copy.epoch)
                copy.apply(decode_delta(delta.encode()))
                assert _contents(copy) == _contents(structure)
                assert (copy.epoch, copy.version) == (3, structure.version)
                assert copy.digest() == structure.digest()
                _check_index(copy)
    _check_index(structure)
    second = PathStructure(PATHS, 2)
    second.apply(copies[0].changes_since(0, 0))
    assert second.digest() == copies[0].digest()


def test_a_delta_holds_what_changed_and_nothing_else():
    structure = PathStructure(PATHS, 2)
    structure.assign(np.array([7, 8, 9]), np.array([[0, 1], [2, 3], [4, -1]], np.int32))
    before = structure.version
    assert structure.assign(np.array([8, 9, 10]), np.array([[2, 3], [4, 5], [6, 7]], np.int32)) == 2
    assert structure.remove(np.array([7, 7, 1000])) == 1
    delta = structure.changes_since(before, 0)
    assert sorted(delta.item_ids()) == [9, 10]
    assert delta.removed_ids().tolist() == [7]
    nothing = structure.changes_since(structure.version, 0)
    assert (len(nothing.item_ids()), len(nothing.removed_ids())) == (0, 0)
    assert nothing.digest == structure.digest()


def test_a_change_to_what_is_there_already_is_no_version():
    structure = PathStructure(PATHS, 1)
    structure.assign(np.array([1]), np.array([[2]], np.int32))
    version = structure.version
    assert structure.assign(np.array([1]), np.array([[2]], np.int32)) == 0
    assert structure.remove(np.array([5])) == 0
    assert structure.version == version


def test_another_epoch_gets_everything():
    structure = PathStructure(PATHS, 1, epoch=2)
    structure.assign(np.array([1]), np.array([[2]], np.int32))
    copy = PathStructure(PATHS, 1, epoch=1)
    copy.assign(np.array([5]), np.array([[3]], np.int32))
    delta = structure.changes_since(copy.version, copy.epoch)
    assert delta.since == 0
    copy.apply(delta)
    assert _contents(copy) == {1: (2,)}


def test_deltas_that_do_not_continue_a_copy_are_refused():
    structure, copy = PathStructure(PATHS, 1), PathStructure(PATHS, 1)
    for path in range(3):
        structure.assign(np.array([path]), np.array([[path]], np.int32))
    with pytest.raises(StructureError, match="since version 2"):
        copy.apply(structure.changes_since(2, 0))
    with pytest.raises(StructureError, match="legal is 1 of 31"):
        PathStructure(31, 1).apply(structure.changes_since(0, 0))
    copy.apply(structure.changes_since(0, 0))
    copy._paths[0] = 9  # a bit has flipped
    structure.assign(np.array([8]), np.array([[8]], np.int32))
    with pytest.raises(StructureError, match="digest"):
        copy.apply(structure.changes_since(copy.version, copy.epoch))
    copy.apply(structure.changes_since(copy.version, copy.epoch))
    assert copy.digest() == structure.digest()


@pytest.mark.parametrize("at", [0, 3, 4, 20, -1])
def test_damaged_deltas_are_refused(at):
    structure = PathStructure(PATHS, 1)
    structure.assign(np.array([1]), np.array([[2]], np.int32))
    data = bytearray(structure.changes_since(0, 0).encode())
    data[at] ^= 1
    with pytest.raises(StructureError, match="delta"):
        decode_delta(bytes(data))


def test_a_restored_structure_goes_on_as_the_saved_one_does():
    rng = np.random.default_rng(2)
    structure = PathStructure(PATHS, 2)
    for _ in range(6):
        _random_change(rng, structure)
    restored = PathStructure(PATHS, 2)
    restored.restore(structure.saved())
    ways = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(6):
        _random_change(ways[0], structure)
        _random_change(ways[1], restored)
        np.testing.assert_array_equal(structure.item_ids(), restored.item_ids())
        np.testing.assert_array_equal(structure.assignments(), restored.assignments())
        _check_index(restored)
        assert structure.changes_since(3, 0) == restored.changes_since(3, 0)
    with pytest.raises(StructureError, match="legal is 1 of 30"):
        PathStructure(PATHS, 1).restore(structure.saved())


@pytest.mark.parametrize(
    ("items", "paths", "name"),
    [
        ([1], [[0, 1, 2]], "paths: shape"),
        ([1, 1], [[0, 1], [2, 3]], "items"),
        ([-1], [[0, 1]], "items"),
        ([1], [[0, PATHS]], "paths: 0 to 30"),
        ([1], [[0, -2]], "paths: -2"),
        ([1], [[4, 4]], "distinct paths"),
    ],
)
def test_assignments_that_make_no_sense_are_refused(items, paths, name):
    with pytest.raises(ValueError, match=name):
        PathStructure(PATHS, 2).assign(np.array(items), np.array(paths, np.int32))


def test_bounds_of_structure_and_index():
    with pytest.raises(ValueError, match="total_paths"):
        PathStructure(2**26 + 1, 1)
    with pytest.raises(ValueError, match="assignments: codes 0 to 5"):
        build_index(np.array([[0], [5]], np.int32), 5)
    empty = PathStructure(PATHS, 1)
    assert empty.index().sizes().tolist() == [0] * PATHS
    assert 3 not in empty
    assert len(empty) == 0

"""Profiles: the latest counts, bad ones change nothing, the newest items come first."""

from __future__ import annotations

import numpy as np
import pytest

from schema.features import FeatureBuilder
from schema.records import Profile
from serving.catalogue import MAX_VALUES, Catalogue
from tests.serving.parts import CONFIG, item


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(FeatureBuilder(CONFIG.features))


def test_a_later_profile_replaces_an_earlier_one(catalogue):
    catalogue.apply(Profile("item", 5, 1, {"author": (1,)}, {"duration_seconds": np.e - 1}))
    before = catalogue.item(5)
    catalogue.apply(Profile("item", 5, 0, {"author": (2,)}))
    assert before.dense.tolist() == pytest.approx([1.0])
    assert catalogue.item(5).dense.tolist() == [0.0]
    assert catalogue.item(5).ids != before.ids
    assert catalogue.items == 1


def test_users_and_items_do_not_mix(catalogue):
    catalogue.apply(Profile("user", 5, 1, {"profile": ("age=1",)}))
    assert (catalogue.items, catalogue.users) == (0, 1)
    assert len(catalogue.user(5).slot(1)) == 1
    assert catalogue.user(6).slot(1) == []


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        (Profile("group", 1, 1, {}), "kind: 'group'"),
        (Profile("item", 1, 1, {}, {"duration_seconds": float("nan")}), "numbers"),
        (Profile("item", 1, 1, {}, {"duration_seconds": float("inf")}), "numbers"),
        (Profile("item", 1, 1, {"tag": tuple(range(MAX_VALUES + 1))}), "1001 values"),
    ],
)
def test_a_profile_that_no_model_can_take_is_refused(catalogue, profile, says):
    with pytest.raises(ValueError, match=says):
        catalogue.apply(profile)
    assert (catalogue.items, catalogue.users) == (0, 0)


def test_the_newest_are_those_with_the_latest_profiles(catalogue):
    for i, time in enumerate([30, 10, 50, 20, 40]):
        catalogue.apply(item(i, time))
    assert catalogue.newest(3) == [2, 4, 0]
    assert catalogue.newest(9) == [2, 4, 0, 3, 1]
    catalogue.apply(item(1, 60))
    assert catalogue.newest(2) == [1, 2]
    assert catalogue.newest(0) == []


def test_items_of_one_bulk_load_take_turns(catalogue):
    for i in range(10):
        catalogue.apply(item(i, 5))
    catalogue.apply(item(99, 6))
    turns = [catalogue.newest(3, turn) for turn in range(0, 10, 2)]
    assert all(newest[0] == 99 and len(set(newest)) == 3 for newest in turns)
    assert {i for newest in turns for i in newest[1:]} == set(range(10))

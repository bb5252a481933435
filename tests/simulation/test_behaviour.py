"""What simulated users do with feeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.config import SimulationConfig
from simulation.behaviour import (
    LATEST_SHARE,
    WATCHED_LONG,
    Reactions,
    bodies,
    delays,
    reactions,
    visitors,
    watched_share,
)
from simulation.catalogue import CHUNK, item_bodies, user_bodies
from simulation.truth import RATES, World

CONFIG = SimulationConfig(users=200, items=1_200, topics=8, surfaces=3, seed=5)


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


def _visits(world: World, numbers: np.ndarray) -> Reactions:
    rows = np.repeat(numbers, 10)
    positions = np.tile(np.arange(10), len(numbers))
    users = np.repeat(visitors(world, numbers).users, 10)
    return reactions(world, rows, users, (rows * 10 + positions) % CONFIG.items, positions)


def test_choices_are_the_same_by_seed_and_number_however_they_are_batched(world: World) -> None:
    together = _visits(world, np.arange(50))
    again = World(CONFIG)
    for number in reversed(range(50)):
        alone, rows = _visits(again, np.array([number])), slice(number * 10, number * 10 + 10)
        for column in ("clicks", "watched", "long_views", "likes"):
            np.testing.assert_array_equal(getattr(alone, column), getattr(together, column)[rows])


def test_another_seed_chooses_otherwise(world: World) -> None:
    other = World(SimulationConfig(users=200, items=1_200, topics=8, surfaces=3, seed=6))
    numbers = np.arange(100)
    assert (visitors(world, numbers).users != visitors(other, numbers).users).any()


def test_rates_over_many_feeds(world: World) -> None:
    done = _visits(world, np.arange(3_000))
    found = {"click": done.clicks, "long_view": done.long_views, "like": done.likes}
    for kind, rate in RATES.items():
        assert found[kind].mean() == pytest.approx(rate, rel=0.15), kind


def test_only_a_clicked_item_is_watched_or_liked(world: World) -> None:
    done = _visits(world, np.arange(300))
    assert ((done.watched > 0) == done.clicks).all()
    assert not (done.likes & ~done.clicks).any()
    assert (done.watched <= world.items.durations[done.items] + 0.001).all()


def test_what_interests_more_is_watched_for_longer(world: World) -> None:
    share = watched_share(np.linspace(0, 0.999, 1000), np.full(1000, 0.2))
    keener = watched_share(np.linspace(0, 0.999, 1000), np.full(1000, 0.7))
    assert (keener >= share).all()
    assert (np.diff(share) <= 0).all()
    assert (share >= WATCHED_LONG).mean() == pytest.approx(0.2, abs=0.01)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1))
def test_a_view_is_long_exactly_as_drawn(draw: float, likely: float) -> None:
    (share,) = watched_share(np.array([draw]), np.array([likely]))
    assert 0.0 <= share <= 1.0
    assert (share >= WATCHED_LONG) == (draw < likely)


def test_visitors_cover_users_and_surfaces(world: World) -> None:
    seen = visitors(world, np.arange(2_000))
    assert set(seen.surfaces.tolist()) == {0, 1, 2}
    assert set(seen.users.tolist()) == set(range(CONFIG.users))


@pytest.mark.parametrize("items", [[], [-1], [CONFIG.items, 10**12]])
def test_items_of_another_world_get_no_reaction(items: list[int], world: World) -> None:
    given_items = np.array(items, np.int64)
    zero = np.zeros(len(items), np.int64)
    assert not reactions(world, zero, zero, given_items, zero).clicks.any()


def test_delays_are_heavy_tailed_and_well_inside_the_window(world: World) -> None:
    free = delays(world, np.arange(200_000), 1.0, 10_000.0)
    assert free.mean() == pytest.approx(1.0, rel=0.1)
    # of an exponential with this mean, one in 22,000 would be longer than ten times the mean
    assert (free > 10).mean() > 0.005
    capped = delays(world, np.arange(1_000), 1.0, 2.0)
    assert capped.max() == LATEST_SHARE * 2.0
    assert capped.min() >= 0


def test_bodies_carry_request_time_and_seconds() -> None:
    yes, no = np.array([True, False]), np.array([False, False])
    done = Reactions(np.array([7, 8]), yes, np.array([9.5, 0.0]), yes, no)
    found = bodies("r-1", done, 1234)
    assert [(b.kind, b.value) for b in found] == [("click", 1.0), ("watch", 9.5), ("long_view", 9.5)]
    assert {(b.request_id, b.item_id, b.event_time) for b in found} == {("r-1", 7, 1234)}


def test_the_catalogue_tells_every_item_and_user_once_in_chunks(world: World) -> None:
    items = list(item_bodies(world, 99, range(CONFIG.items)))
    assert [len(b["items"]) for b in items] == [CHUNK, CHUNK, 200]
    entries = [entry for body in items for entry in body["items"]]
    assert [e["item_id"] for e in entries] == list(range(CONFIG.items))
    assert entries[3]["fields"]["tag"] == [int(world.items.topics[3])]
    assert all(set(e) == {"item_id", "fields", "numbers", "event_time"} for e in entries)
    users = [entry for body in user_bodies(world) for entry in body["users"]]
    assert [e["user_id"] for e in users] == list(range(CONFIG.users))
    assert users[0]["fields"]["profile"][0] == f"age={world.users.groups[0]}"


def test_the_catalogue_hides_quality_and_taste(world: World) -> None:
    (entry, *_) = next(item_bodies(world, 0, [3]))["items"]
    assert set(entry["fields"]) | set(entry["numbers"]) == {"author", "tag", "type", "duration_seconds"}

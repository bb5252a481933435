"""What simulated users do with a feed."""

from __future__ import annotations

from collections import Counter

import pytest

from schema.config import SimulationConfig
from simulation.behaviour import LATEST_SHARE, Reaction, Shown, bodies, delay, reactions, visitor
from simulation.catalogue import CHUNK, item_bodies, user_bodies
from simulation.truth import RATES, World

CONFIG = SimulationConfig(users=200, items=1_200, topics=8, surfaces=3, seed=5)


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


def _visit(world: World, number: int) -> tuple[int, list[Reaction]]:
    rng = world.visit(number)
    who = visitor(world, rng)
    shown = [Shown((number * 10 + p) % CONFIG.items, p) for p in range(10)]
    return who.user, reactions(world, who.user, shown, rng)


def test_choices_are_the_same_by_seed_and_number(world: World) -> None:
    again = World(CONFIG)
    numbers = range(50)
    # in whatever order the visits happen
    backwards = {n: _visit(again, n) for n in reversed(numbers)}
    assert [_visit(world, n) for n in numbers] == [backwards[n] for n in numbers]


def test_rates_over_many_feeds(world: World) -> None:
    visits = 3_000
    done = Counter(r.kind for n in range(visits) for r in _visit(world, n)[1])
    for kind, rate in RATES.items():
        assert done[kind] / (10 * visits) == pytest.approx(rate, rel=0.15), kind


def test_only_a_clicked_item_is_watched_or_liked(world: World) -> None:
    for number in range(300):
        _, done = _visit(world, number)
        clicked = {r.item_id for r in done if r.kind == "click"}
        assert {r.item_id for r in done} == clicked
        assert all(r.value > 0 for r in done)


def test_visitors_cover_users_and_surfaces(world: World) -> None:
    seen = [visitor(world, world.visit(n)) for n in range(2_000)]
    assert {v.surface for v in seen} == {0, 1, 2}
    assert {v.user for v in seen} == set(range(CONFIG.users))


@pytest.mark.parametrize("shown", [[], [Shown(-1, 0)], [Shown(CONFIG.items, 0), Shown(10**12, 1)]])
def test_items_of_another_world_get_no_reaction(shown: list[Shown], world: World) -> None:
    assert reactions(world, 0, shown, world.visit(0)) == []


def test_delays_are_exponential_and_well_inside_the_window(world: World) -> None:
    rng = world.visit(0)
    free = [delay(rng, 1.0, 1_000.0) for _ in range(4_000)]
    assert sum(free) / len(free) == pytest.approx(1.0, rel=0.1)
    capped = [delay(rng, 1.0, 2.0) for _ in range(1_000)]
    assert max(capped) == LATEST_SHARE * 2.0


def test_bodies_carry_request_and_time() -> None:
    (body,) = bodies("r-1", [Reaction(7, "like", 1.0)], 1234)
    assert (body.request_id, body.item_id, body.kind, body.event_time) == ("r-1", 7, "like", 1234)


def test_the_catalogue_tells_every_item_and_user_once_in_chunks(world: World) -> None:
    items = list(item_bodies(world, 99))
    assert [len(b["items"]) for b in items] == [CHUNK, CHUNK, 200]
    entries = [entry for body in items for entry in body["items"]]
    assert [e["item_id"] for e in entries] == list(range(CONFIG.items))
    assert entries[3]["fields"]["tag"] == [int(world.items.topics[3])]
    assert all(set(e) == {"item_id", "fields", "numbers", "event_time"} for e in entries)
    users = [entry for body in user_bodies(world) for entry in body["users"]]
    assert [e["user_id"] for e in users] == list(range(CONFIG.users))
    assert users[0]["fields"]["profile"][0] == f"age={world.users.groups[0]}"


def test_the_catalogue_hides_quality_and_taste(world: World) -> None:
    (entry, *_) = next(item_bodies(world, 0))["items"]
    assert set(entry["fields"]) | set(entry["numbers"]) == {"author", "tag", "type", "duration_seconds"}

"""How the simulated world changes in time."""

from __future__ import annotations

import numpy as np
import pytest

from schema.config import SimulationConfig
from simulation.life import Life
from simulation.truth import World

CONFIG = SimulationConfig(
    users=400, items=500, topics=8, drift_seconds=50, jump_seconds=200, item_life_seconds=60, seed=1
)


def started(**changes: float) -> tuple[World, Life]:
    config = SimulationConfig(**{f: getattr(CONFIG, f) for f in CONFIG.__struct_fields__} | changes)
    world = World(config)
    return world, Life(world, config)


def test_the_world_after_n_ticks_does_not_depend_on_the_steps_taken() -> None:
    (one, at_once), (other, by_steps) = started(), started()
    at_once.advance(40)
    for tick in (1, 2, 17, 17, 40):
        by_steps.advance(tick)
    np.testing.assert_array_equal(one.users.tastes, other.users.tastes)
    np.testing.assert_array_equal(one.items.qualities, other.items.qualities)


def test_tastes_stay_shares_of_interest() -> None:
    world, life = started()
    life.set_trend(2, 0.3)
    life.advance(100)
    assert world.users.tastes.sum(axis=1) == pytest.approx(1.0)
    assert (world.users.tastes >= 0).all()


def test_tastes_drift_a_little_and_jump_at_once() -> None:
    never = 1e12
    world, life = started(jump_seconds=never)
    before = world.users.tastes.copy()
    life.advance(1)
    moved = np.abs(world.users.tastes - before).sum(axis=1)
    assert 0 < moved.mean() < moved.max() < 0.05
    world, life = started(drift_seconds=never)
    before = world.users.tastes.copy()
    life.advance(1)
    moved = np.abs(world.users.tastes - before).sum(axis=1)
    assert 0 < (moved > 0.2).sum() < 20
    assert np.median(moved) < 1e-6


def test_items_die_of_age_and_others_are_born() -> None:
    world, life = started()
    users = np.zeros(500, np.int64)
    before = world.interest(users, np.arange(500))
    world_topics = world.items.topics.copy()
    born = life.advance(60)
    assert list(born) == list(range(500, len(world.items)))
    assert life.dead_items == len(born)
    dead = int((world.items.qualities[:500] < -1.9).sum())
    assert dead / 500 == pytest.approx(1 - np.exp(-1), abs=0.1)
    np.testing.assert_array_equal(world.items.topics[:500], world_topics)
    assert world.interest(users, np.arange(500)).mean() < before.mean()
    assert life.advance(60) == range(len(world.items), len(world.items))


def test_a_trend_draws_everybody_to_its_topic_and_takes_from_the_rest() -> None:
    world, life = started()
    users, items = np.zeros(500, np.int64), np.arange(500)
    before = world.interest(users, items)
    least = int(world.users.tastes.mean(axis=0).argmin())
    trend = life.set_trend(None, 0.6)
    assert trend.topic == least
    after, of_topic = world.interest(users, items), world.items.topics == least
    assert (after[of_topic] > before[of_topic]).all()
    assert (after[~of_topic] <= before[~of_topic]).all()
    life.set_trend(least, 0.0)
    assert world.interest(users, items) == pytest.approx(before)


@pytest.mark.parametrize(
    ("topic", "strength", "told"),
    [(8, 0.5, "topic: 8; legal is 0 to 7"), (-1, 0.5, "topic"), (0, 1.5, "strength")],
)
def test_a_trend_that_cannot_be_is_refused(topic: int, strength: float, told: str) -> None:
    _, life = started()
    with pytest.raises(ValueError, match=told):
        life.set_trend(topic, strength)
    assert life.trend is None

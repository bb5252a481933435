"""The simulated world: sane rates, effects in the right direction, the same by seed."""

from __future__ import annotations

import numpy as np
import pytest

from schema.config import SimulationConfig
from simulation.truth import KINDS, RATES, World, examination

CONFIG = SimulationConfig(users=300, items=1_000, topics=8, seed=3)


@pytest.fixture(scope="module")
def world() -> World:
    return World(CONFIG)


def _mean_rates(world: World, pairs: int = 20_000) -> dict[str, float]:
    rng = np.random.default_rng(11)
    rates = np.zeros(3)
    for user in range(200):
        items = rng.integers(0, CONFIG.items, pairs // 200)
        click, long_view, like = world.probabilities(user, items, rng.integers(0, 10, len(items))).T
        rates += [click.mean(), (click * long_view).mean(), (click * like).mean()]
    return dict(zip(KINDS, rates / 200, strict=True))


def test_random_feeds_get_the_stated_rates(world: World) -> None:
    assert _mean_rates(world) == pytest.approx(RATES, rel=0.1)


@pytest.mark.parametrize("topics", [1, 2, 64])
def test_the_rates_hold_for_any_number_of_topics(topics: int) -> None:
    world = World(SimulationConfig(users=300, items=1_000, topics=topics, seed=1))
    assert _mean_rates(world) == pytest.approx(RATES, rel=0.15)


def test_probabilities_are_probabilities(world: World) -> None:
    likely = world.probabilities(0, np.arange(CONFIG.items), np.zeros(CONFIG.items, np.int64))
    assert likely.shape == (CONFIG.items, 3)
    assert ((likely > 0) & (likely < 1)).all()


def test_a_user_prefers_the_topics_of_their_taste(world: World) -> None:
    for user in range(20):
        favourite = int(world.users.tastes[user].argmax())
        interest = world.interest(user, np.arange(CONFIG.items))
        of_topic = world.items.topics == favourite
        assert interest[of_topic].mean() > interest[~of_topic].mean()


def test_quality_and_shortness_help(world: World) -> None:
    items = np.arange(CONFIG.items)
    click, long_view, _ = world.probabilities(0, items, np.zeros(len(items), np.int64)).T
    same_topic = world.items.topics == world.items.topics[0]
    by_quality = items[same_topic][np.argsort(world.items.qualities[same_topic])]
    assert (np.diff(click[by_quality]) >= 0).all()
    appeal_apart = np.log(long_view / (1 - long_view)) - np.log(click / (1 - click))
    assert np.corrcoef(appeal_apart, np.log(world.items.durations))[0, 1] == pytest.approx(-1)


def test_later_positions_are_looked_at_less(world: World) -> None:
    items = np.zeros(10, np.int64)
    click = world.probabilities(0, items, np.arange(10))[:, 0]
    assert (np.diff(click) < 0).all()
    assert examination(np.array([0]))[0] == 1.0
    assert click[0] == pytest.approx(world.interest(0, items)[0])


def test_an_author_keeps_to_one_topic(world: World) -> None:
    pairs = set(zip(world.items.authors.tolist(), world.items.topics.tolist(), strict=True))
    assert len(pairs) == len({author for author, _ in pairs})


def test_the_seed_decides_everything() -> None:
    one, same = World(CONFIG), World(CONFIG)
    other = World(SimulationConfig(users=300, items=1_000, topics=8, seed=4))
    np.testing.assert_array_equal(one.users.tastes, same.users.tastes)
    np.testing.assert_array_equal(one.items.qualities, same.items.qualities)
    assert not np.array_equal(one.users.tastes, other.users.tastes)


def test_one_user_and_one_item_make_a_world() -> None:
    world = World(SimulationConfig(users=1, items=1, topics=4))
    assert world.interest(0, np.array([0])).shape == (1,)


def test_the_best_interest_is_that_of_the_best_items(world: World) -> None:
    everything = np.sort(world.interest(4, np.arange(CONFIG.items)))
    assert world.best_interest(4, 10) == pytest.approx(everything[-10:].mean())
    assert world.best_interest(4, 10 * CONFIG.items) == pytest.approx(everything.mean())

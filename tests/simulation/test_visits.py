"""The closed loop against a replica in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import httpx
import numpy as np
import pytest

from schema.config import Config
from simulation.arms import Arms
from simulation.behaviour import reactions, visitors
from simulation.client import ReplicaClient, Sleep
from simulation.errors import Rejected, ServingUnavailable
from simulation.truth import World
from simulation.visits import MOST_AT_ONCE, Visits
from tests.simulation.fakes import FakeReplica, NoTime, local_config, until

CONFIG = local_config(simulation__users=50, simulation__items=100, simulation__topics=4, simulation__seed=2)
NOW_S = 1_700_000_000.5

T = TypeVar("T")


def _with_visits(
    replica: FakeReplica,
    work: Callable[[Visits], Awaitable[T]],
    sleep: Sleep | None = None,
    config: Config = CONFIG,
) -> tuple[Visits, ReplicaClient, T]:
    async def run() -> tuple[Visits, ReplicaClient, T]:
        async with replica.client() as http:
            nap = sleep or NoTime()
            client = ReplicaClient(http, ["http://replica"], nap)
            visits = Visits(config, World(config.simulation), Arms(2, client), clock=lambda: NOW_S, sleep=nap)
            return visits, client, await work(visits)

    return asyncio.run(run())


async def _some(visits: Visits, numbers: range = range(20)) -> None:
    for number in numbers:
        await visits.visit(number)


def _expected(visits: range = range(20)) -> list[tuple[str, int, str]]:
    """The actions that the world's seed decides, for the feeds of FakeReplica in turn."""
    world = World(CONFIG.simulation)
    numbers = np.repeat(np.array(visits), 10)
    positions = np.tile(np.arange(10), len(visits))
    users = np.repeat(visitors(world, np.array(visits)).users, 10)
    done = reactions(world, numbers, users, (numbers * 10 + positions) % 100, positions)
    found = []
    for row in np.flatnonzero(done.clicks):
        kinds = (
            ["click", "watch"] + ["long_view"] * int(done.long_views[row]) + ["like"] * int(done.likes[row])
        )
        found += [(f"r-{numbers[row]}", int(done.items[row]), kind) for kind in kinds]
    return found


def _sent(replica: FakeReplica) -> list[tuple[str, int, str]]:
    return [(a["request_id"], a["item_id"], a["kind"]) for a in replica.actions()]


def test_a_visit_asks_for_a_feed_and_acts_on_it() -> None:
    replica = FakeReplica()
    visits, client, _ = _with_visits(replica, _some)
    assert _sent(replica) == _expected()
    assert all(set(body) == {"user_id", "surface"} for body in replica.taken["/v1/feed"])
    assert {a["event_time"] for a in replica.actions()} == {int(NOW_S * 1000)}
    counts = visits.counts
    assert (counts.feeds, counts.impressions, counts.actions) == (20, 200, len(_expected()))
    assert counts.clicks == sum(kind == "click" for _, _, kind in _expected())
    assert client.errors == 0


def test_actions_are_retried_until_they_are_delivered_once() -> None:
    def fault(path: str, nth: int) -> httpx.Response | None:
        if path != "/v1/actions" or nth % 6 == 0:
            return None
        if nth % 2:
            raise httpx.ConnectError("the replica restarts")
        return httpx.Response(503)

    replica = FakeReplica(fault)
    visits, client, _ = _with_visits(replica, _some)
    assert _sent(replica) == _expected()
    assert client.errors == 5 * len(replica.taken["/v1/actions"])
    assert visits.counts.actions == len(_expected())


def test_the_user_waits_before_acting() -> None:
    sleep = NoTime()
    _with_visits(FakeReplica(), _some, sleep)
    assert len(set(sleep.slept)) > 5
    assert max(sleep.slept) <= CONFIG.streaming.window_seconds / 2


WRONG_ANSWERS = {
    "not JSON": httpx.Response(200, text="oops"),
    "no items": httpx.Response(200, json={"request_id": "r"}),
    "refused": httpx.Response(422, json={"detail": "user_id"}),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_a_wrong_answer_is_counted_and_the_next_visit_goes_on(case: str) -> None:
    replica = FakeReplica(lambda path, nth: WRONG_ANSWERS[case] if (path, nth) == ("/v1/feed", 1) else None)
    visits, client, _ = _with_visits(replica, _some)
    assert client.errors == 1
    assert visits.counts.feeds == 19


def test_introduce_posts_the_catalogue_through_a_restart() -> None:
    replica = FakeReplica(lambda _path, nth: httpx.Response(503) if nth < 4 else None)
    _with_visits(replica, lambda visits: visits.introduce(30.0))
    assert sum(len(b["items"]) for b in replica.taken["/v1/items"]) == 100
    assert sum(len(b["users"]) for b in replica.taken["/v1/users"]) == 50


def test_introduce_gives_up_in_time() -> None:
    replica = FakeReplica(lambda _path, _nth: httpx.Response(503))
    with pytest.raises(ServingUnavailable, match=r"within 0\.05 s; serving\.replicas"):
        _with_visits(replica, lambda visits: visits.introduce(0.05))


def test_introduce_tells_of_a_refusal() -> None:
    replica = FakeReplica(lambda _path, _nth: httpx.Response(422, text="no"))
    with pytest.raises(Rejected):
        _with_visits(replica, lambda visits: visits.introduce(5.0))


def test_visits_begin_on_schedule_however_slow_the_replica_is() -> None:
    """No feed is answered, and yet visits go on to begin, up to the bound."""
    replica = FakeReplica(lambda _path, _nth: httpx.Response(503))

    async def never(_seconds: float) -> None:
        await asyncio.Event().wait()

    async def work(visits: Visits) -> int:
        stop = asyncio.Event()
        running = asyncio.create_task(visits.run(20_000.0, stop))
        await until(lambda: visits.counts.skipped > 0, seconds=20)
        stop.set()
        await running
        return await visits.finish(0.01)

    visits, _, given_up = _with_visits(replica, work, never)
    assert visits.counts.feeds == 0
    assert given_up == MOST_AT_ONCE
    assert len(replica.tries) == MOST_AT_ONCE


def test_users_who_watch_keep_nobody_from_coming() -> None:
    """Feeds are answered at once, and everybody takes for ever to act: more than that many are under way."""
    replica = FakeReplica()

    async def never(_seconds: float) -> None:
        await asyncio.Event().wait()

    async def work(visits: Visits) -> int:
        stop = asyncio.Event()
        running = asyncio.create_task(visits.run(20_000.0, stop))
        await until(lambda: len(visits._under_way) > 2 * MOST_AT_ONCE, seconds=60)
        stop.set()
        await running
        return await visits.finish(0.01)

    visits, _, given_up = _with_visits(replica, work, never)
    assert given_up > 2 * MOST_AT_ONCE
    assert visits.counts.skipped == 0


def test_finish_delivers_what_is_outstanding() -> None:
    replica = FakeReplica()
    gate = asyncio.Event()

    async def until_told(_seconds: float) -> None:
        await gate.wait()

    async def work(visits: Visits) -> int:
        stop = asyncio.Event()
        running = asyncio.create_task(visits.run(1_000.0, stop))
        await until(lambda: visits.counts.feeds >= 20, seconds=20)
        stop.set()
        await running
        assert replica.actions() == []
        asyncio.get_running_loop().call_soon(gate.set)
        return await visits.finish(10.0)

    visits, _, given_up = _with_visits(replica, work, until_told)
    assert given_up == 0
    assert len(replica.actions()) == visits.counts.actions > 0
    assert len(replica.taken["/v1/feed"]) == visits.counts.feeds


def test_items_that_are_born_are_announced() -> None:
    replica = FakeReplica()

    async def work(visits: Visits) -> int:
        visits._live(0.4)
        visits._live(3.0)
        return await visits.finish(5.0)

    config = local_config(simulation__items=100, simulation__users=50, simulation__item_life_seconds=10)
    visits, _, _ = _with_visits(replica, work, config=config)
    told = [entry["item_id"] for body in replica.taken["/v1/items"] for entry in body["items"]]
    assert told == list(range(100, len(visits.world.items)))
    assert len(told) == visits.counts.born > 5

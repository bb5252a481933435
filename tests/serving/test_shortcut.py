"""The short way of a feed: the framework's answers, feeds one after the other, and the gate counts who waits."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from serving import wire
from serving.gate import Gate
from serving.shortcut import Shortcut
from tests.serving.parts import Stage, item

ITEMS = list(range(100, 130))


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.learn(*[item(i) for i in ITEMS])
    stage.shards.publish(4)
    stage.replica.sync.run_round()
    return stage


async def framework(scope, receive, send):
    """Says that it was asked, and for what."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 418, "headers": []})
    await send({"type": "http.response.body", "body": body})


def shortcut(stage: Stage) -> Shortcut:
    return Shortcut(framework, stage.replica.feeds, 10, lambda feed: wire.feed_json(feed, ["a", "b", "c"]))


def client(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica", timeout=10)


def test_a_feed_is_as_the_description_says_and_logged_once(stage):
    answer = stage.post("/v1/feed", {"user_id": 7.0, "surface": 1, "size": 3})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    feed = wire.FeedResponse.model_validate_json(answer.content)
    assert len(feed.items) == 3
    assert stage.replica.feeds.made == stage.replica.outboxes.feature_logs.offered == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "kind"),
    [
        ("POST", "/v1/feed", b"{", "application/json"),
        ("POST", "/v1/feed", b'{"user_id": "7"}', "application/json"),
        ("POST", "/v1/feed", b'{"user_id": 7, "size": 11}', "application/json"),
        ("POST", "/v1/feed", b'{"user_id": 7}', "text/plain"),
        ("GET", "/v1/feed", b'{"user_id": 7}', "application/json"),
        ("POST", "/v1/feeds", b'{"user_id": 7}', "application/json"),
    ],
)
def test_all_else_is_passed_on_whole(stage, method, path, body, kind):
    async def ask() -> httpx.Response:
        app = Gate(shortcut(stage), None, 5)
        async with client(app) as http:
            return await http.request(method, path, content=body, headers={"content-type": kind})

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.content) == (418, body)
    assert stage.replica.feeds.made == 0


def test_without_items_the_framework_says_why():
    async def ask() -> httpx.Response:
        async with client(shortcut(Stage())) as http:
            return await http.post("/v1/feed", json={"user_id": 7})

    assert asyncio.run(ask()).status_code == 418


def test_who_waits_for_a_turn_is_under_way(stage):
    async def ask() -> list[int]:
        short = shortcut(stage)
        async with client(Gate(short, None, 2)) as http:
            async with short._turn:
                two = [asyncio.create_task(http.post("/v1/feed", json={"user_id": u})) for u in (1, 2)]
                for _ in range(100):  # turns of the loop, of which both need a few
                    await asyncio.sleep(0)
                third = await http.post("/v1/feed", json={"user_id": 3})
            return [third.status_code, *[(await task).status_code for task in two]]

    assert asyncio.run(ask()) == [429, 200, 200]
    assert stage.replica.feeds.made == 2

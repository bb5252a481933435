"""Posting until a replica answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from simulation.client import ReplicaClient
from simulation.errors import Rejected
from tests.simulation.fakes import FakeHttp, FakeReplica, NoTime

URLS = ["http://one", "http://two"]


def _post(replica: FakeReplica, sleep: NoTime, **options: Any) -> tuple[ReplicaClient, bytes | None]:
    async def run() -> tuple[ReplicaClient, bytes | None]:
        async with replica.client() as http:
            client = ReplicaClient(http, URLS, sleep)
            return client, await client.post("/v1/actions", {"user_id": 1, "actions": []}, **options)

    return asyncio.run(run())


@pytest.mark.parametrize("status", [500, 502, 503, 408, 425, 429])
def test_a_passing_failure_is_retried_with_back_off_and_counted(status: int) -> None:
    replica = FakeReplica(lambda _path, nth: httpx.Response(status) if nth <= 7 else None)
    sleep = NoTime()
    client, answer = _post(replica, sleep)
    assert answer is not None
    assert client.errors == 7
    assert replica.taken["/v1/actions"] == [{"user_id": 1, "actions": []}]
    assert sleep.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_broken_connection_is_retried(error: type[httpx.TransportError]) -> None:
    def fault(_path: str, nth: int) -> None:
        if nth == 1:
            raise error("broken")

    client, answer = _post(FakeReplica(fault), NoTime())
    assert answer is not None
    assert client.errors == 1


def test_the_next_replica_is_tried_after_a_failure() -> None:
    hosts: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(503 if request.url.host == "one" else 202)

    async def run() -> None:
        async with FakeHttp(answer) as http:
            client = ReplicaClient(http, URLS, NoTime())
            await client.post("/v1/feed", {})
            await client.post("/v1/feed", {})

    asyncio.run(run())
    assert hosts == ["one", "two", "two"]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_is_told_and_not_retried(status: int) -> None:
    replica = FakeReplica(lambda _path, _nth: httpx.Response(status, text="no such key"))
    with pytest.raises(Rejected, match=rf"POST http://one/v1/actions: {status} no such key"):
        _post(replica, NoTime())
    assert replica.tries == ["/v1/actions"]


def test_it_stops_when_told_to() -> None:
    replica = FakeReplica(lambda _path, _nth: httpx.Response(503))
    left = iter([True, True, False])
    client, answer = _post(replica, NoTime(), keep_trying=lambda: next(left))
    assert answer is None
    assert client.errors == 3

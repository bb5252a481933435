"""A replica that answers in memory, and a sleep that takes no time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Self

import httpx

from schema.config import Config
from schema.config_file import load_config
from simulation.connections import Answer
from simulation.errors import Unreached
from tests.simulation.logs import REPOSITORY


def local_config(**overrides: Any) -> Config:
    return load_config(
        REPOSITORY / "configs" / "local.yaml", {key.replace("__", "."): v for key, v in overrides.items()}
    )


class FakeHttp:
    """As `simulation.connections.Connections`, answered by a function, whose httpx errors are the network's."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self._answer = answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        await asyncio.sleep(0)
        try:
            answer = self._answer(httpx.Request("POST", url, content=body, headers=dict(headers)))
        except httpx.RequestError as error:
            raise Unreached(str(error)) from error
        return Answer(answer.status_code, answer.content)


class FakeReplica:
    """Answers as the replica's API does, unless `fault` has an answer of its own (or raises)."""

    def __init__(self, fault: Callable[[str, int], httpx.Response | None] = lambda _path, _nth: None) -> None:
        self.taken: dict[str, list[Any]] = {}
        self.tries: list[str] = []
        self.asked: list[tuple[str, int | None]] = []
        self._fault = fault

    def client(self) -> FakeHttp:
        return FakeHttp(self._answer)

    def actions(self) -> list[dict[str, Any]]:
        return [action for body in self.taken.get("/v1/actions", []) for action in body["actions"]]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.tries.append(path)
        self.asked.append((path, request.url.port))
        wrong = self._fault(path, self.tries.count(path))
        if wrong is not None:
            return wrong
        body = json.loads(request.content)
        bodies = self.taken.setdefault(path, [])
        bodies.append(body)
        if path != "/v1/feed":
            return httpx.Response(202, json={})
        number = len(bodies) - 1
        items = [{"item_id": (number * 10 + p) % 100, "position": p, "score": 0.5} for p in range(10)]
        return httpx.Response(200, json={"request_id": f"r-{number}", "items": items, "model": {}})


class NoTime:
    """A sleep that only notes how long it would have taken."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """As `tests.polling.wait_until`, for what happens in this event loop meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is a count, which sets no event
            await asyncio.sleep(0.005)

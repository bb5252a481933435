"""The replica under load."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from schema.config import Config
from schema.records import Profile
from serve_sides.world import USERS, World

_CHUNK: Final = 500
_WAIT_SECONDS: Final = 120.0


class Replica:
    """The replica under load."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = config.serving.replicas[0].port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def report(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = self.http.get("/report/replica").raise_for_status().json()
        return found

    def clock(self) -> int:
        """The sum of its shards' clocks."""
        return sum(clock for _, clock in self.report()["clocks"])

    def tell(self, world: World) -> None:
        """Announce the world, and wait until it serves it."""
        for start in range(0, len(world.items), _CHUNK):
            self._post("/v1/items", items=[_body(p, "item_id") for p in world.items[start : start + _CHUNK]])
        for start in range(0, USERS, _CHUNK):
            self._post("/v1/users", users=[_body(p, "user_id") for p in world.users[start : start + _CHUNK]])
        for user, items in world.histories.items():
            actions = [
                {"request_id": "before", "item_id": i, "kind": kind, "event_time": world.now}
                for kind in ("long_view", "like")
                for i in items[:30]
            ]
            self._post("/v1/actions", user_id=user, actions=actions)
        self._until(lambda r: r["items"] >= len(world.items) and r["users"] >= USERS)
        self._until(lambda r: r["candidates"] >= self.config.serving.candidates and r["dense_version"] > 0)
        self._until(lambda r: r["retrieval"]["items"] >= len(world.items))

    def _post(self, path: str, **body: object) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while (answer := self.http.post(path, json=body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        answer.raise_for_status()

    def _until(self, done: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not done(report := self.report()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replica does not serve the world after {_WAIT_SECONDS} s: {report}")
            time.sleep(0.2)


def _body(profile: Profile, key: str) -> dict[str, Any]:
    fields = {name: list(values) for name, values in profile.fields.items()}
    return {key: profile.id, "fields": fields, "numbers": dict(profile.numbers)}

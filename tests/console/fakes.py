"""All roles in one thread: their reports, a feed that follows what was liked, and a note of what was asked."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException

from schema.config import Config
from schema.config_file import load_config
from tests.polling import wait_until

ROOT = Path(__file__).parents[2]
TASKS = ("click", "long_view", "like")
COMMANDS = ("/command/trend", "/command/recovery_point", "/command/rollback")


def trainer(samples: int, lag: int = 3) -> dict[str, Any]:
    values = {name: dict.fromkeys(TASKS, 0.7) for name in ("auc", "calibration")}
    points = [{"number": n, "made_at": 1_700_000_000_000, "step": 40 * n, "rows": 4000 * n} for n in (3, 4)]
    known = {"samples_trained": samples, "lag": lag, "tasks": list(TASKS), "overall": values}
    return known | {"recovery_points": points}


def replica(feeds: int, **changes: Any) -> dict[str, Any]:
    stages = {"count": 5} | {
        name: {"p50": 0.4, "p99": 0.9}
        for name in ("joined", "trained", "applied", "served", "completed_to_served")
    }
    return {
        "ready": True,
        "paused": False,
        "clocks": [[1, 41], [1, 42]],
        "dense_version": 7,
        "seconds_since_sync": 0.4,
        "rows": {"embedding": 1234},
        "feeds": feeds,
        "freshness_stages": stages,
        "outboxes": {"feature_logs": {"waiting": 0, "spooled_bytes": 0}},
    } | changes


class FakeRoles:
    """Answers for every role of `config`, wherever it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.paused = self.without_items = False
        self.trends: list[dict[str, Any]] = []
        self._count = itertools.count()
        self._topic = 3
        self.app = FastAPI()
        reports = {
            "trainer": lambda: trainer(100 * next(self._count)),
            "joiner": lambda: {"feature_logs": 40 * next(self._count), "actions": 9, "open_requests": 12},
            "shard": lambda: {"rows": {"embedding": 600}, "evictions": 7 * next(self._count)},
            "replica": lambda: replica(10 * next(self._count), paused=self.paused),
            "simulation": self._simulation,
        }
        for name, report in reports.items():
            self.app.add_api_route(f"/report/{name}", report, methods=["GET"])
        self.app.add_api_route("/v1/items/{item}", self._item, methods=["GET"])
        for path in ("/v1/feed", "/v1/actions", "/v1/sync/settings", *COMMANDS):
            self.app.add_api_route(path, self._taker(path), methods=["POST"])

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    def _simulation(self) -> dict[str, Any]:
        return {"served_interest": {"live": 0.5, "frozen": 0.3}, "best_interest": 0.9, "trends": self.trends}

    def _item(self, item: int) -> dict[str, Any]:
        return {"item_id": item, "slots": {"tag": [item % 16], "author": [item]}}

    def _taker(self, path: str) -> Any:
        def take(body: dict[str, Any]) -> dict[str, Any]:
            self.asked.append((path, body))
            return {
                "/v1/feed": self._feed,
                "/v1/sync/settings": lambda: self._settings(body),
                "/command/trend": self._trend,
                "/command/recovery_point": lambda: {"number": 5},
                "/command/rollback": lambda: {"number": body["to"]},
                "/v1/actions": lambda: self._acted(body),
            }[path]()

        return take

    def _feed(self) -> dict[str, Any]:
        if self.without_items:
            raise HTTPException(503, "no item is known yet")
        number = len(self.bodies("/v1/feed"))
        items = [
            {
                "item_id": (number * 10 + p) * 16 + (self._topic if p % 2 else p),
                "position": p,
                "score": 0.5,
                "scores": dict.fromkeys(TASKS, 0.25),
                "explored": p == 2,
            }
            for p in range(10)
        ]
        return {
            "request_id": f"r{number}",
            "items": items,
            "model": {"dense": 7, "shards": [[1, 41], [1, 42]]},
        }

    def _acted(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"accepted": len(body["actions"])}

    def _settings(self, body: dict[str, Any]) -> dict[str, Any]:
        self.paused = body.get("paused", self.paused)
        return body

    def _trend(self) -> dict[str, Any]:
        self.trends.append({"at": 1_700_000_000_000, "topic": 5, "strength": 0.7})
        return self.trends[-1]


@contextmanager
def serving(roles: FakeRoles, folder: Path) -> Iterator[Config]:
    """Serve `roles` on the ports of the configuration that is given."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    ports = iter([s.getsockname()[1] for s in sockets])
    names = ("streaming.ops_port", "trainer.ops_port", "simulation.ops_port", "serving.replicas.0.port")
    shards = tuple(f"parameter_server.shards.{i}.{n}" for i in range(2) for n in ("port", "ops_port"))
    settings = {name: next(ports) for name in (*names, *shards)}
    config = load_config(ROOT / "configs" / "local.yaml", {"run_dir": str(folder), **settings})
    server = uvicorn.Server(uvicorn.Config(roles.app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    try:
        wait_until(lambda: server.started, 20)
        yield config
    finally:
        server.should_exit = True
        thread.join(20)
        for each in sockets:
            each.close()

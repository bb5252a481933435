"""Kills a random joiner worker every 30 s under steady traffic on Apache Kafka, and counts what that cost.

`python -m tests.soak.join --seconds N`; prints one JSON line last and exits 1 where a label was lost or doubled,
or where memory grew.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from runtime.broker import LocalBroker
from runtime.kafka import ensure_topics
from runtime.ports import free_port
from schema.config import KafkaConfig
from schema.records import ActionBatch
from tests.streaming.make import action, feature_log
from tests.streaming.worker import Feed, View, Worker, deployment

WORKERS = 3
KILL_SECONDS = 30.0
STEP_SECONDS = 0.1
REQUESTS_A_STEP = 5
SETTLE_SECONDS = 90.0
MEMORY_GROWTH = 1.5
WARM_UP = 0.3


class Traffic:
    """Requests with actions in time, late ones and doubles of both, and the labels due."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._rng = random.Random(1)
        self._count = 0
        self._later: list[tuple[float, ActionBatch]] = []
        self.due: Counter[Any] = Counter()

    def step(self) -> None:
        rng, now = self._rng, time.time()
        logs = []
        for _ in range(REQUESTS_A_STEP):
            name, user, items = f"r{self._count}", rng.randrange(200), rng.sample(range(1000), 5)
            self._count += 1
            moment = int(now * 1000)
            logs.append(feature_log(name, moment, items, user_id=user))
            hit = {(i, rng.choice(("click", "like"))) for i in rng.sample(items, rng.randrange(3))}
            for item, kind in hit:
                delay = rng.uniform(0.05, 0.9) if rng.random() < 0.7 else rng.uniform(2, 20)
                batch = ActionBatch(user, (action(name, moment + int(delay * 1000), item, kind),))
                self._later += [(now + delay, batch)] * (2 if rng.random() < 0.1 else 1)
            self.due.update((name, i, t, float((i, t) in hit)) for i in items for t in ("click", "like"))
        self._feed.logs(logs + [log for log in logs if rng.random() < 0.05])
        self.act(now)

    def act(self, now: float) -> bool:
        """Send the actions that are due; whether more are to come."""
        ready = [batch for at, batch in self._later if at <= now]
        self._later = [(at, batch) for at, batch in self._later if at > now]
        self._feed.actions(ready)
        return bool(self._later)


def soak(seconds: float, folder: Path) -> dict[str, Any]:
    """The figures of one run."""
    port = free_port()
    broker = LocalBroker(KafkaConfig(local_port=port, heap_mb=384), folder / "kafka")
    broker.start(timeout=90)
    kafka = KafkaConfig(bootstrap=f"127.0.0.1:{port}")
    ensure_topics(kafka)
    config = deployment(kafka, folder, late_horizon_seconds=120.0)
    running = [Worker(config, folder, i) for i in range(WORKERS)]
    try:
        for worker in running:
            worker.wait_ready()
        return _run(seconds, Traffic(Feed(kafka)), View(kafka), running, lambda i: Worker(config, folder, i))
    finally:
        for worker in running:
            worker.kill()
        broker.stop(timeout=20)


def _run(seconds: float, traffic: Traffic, view: View, running: list[Worker], start: Any) -> dict[str, Any]:
    rng = random.Random(2)
    began = time.monotonic()
    next_kill, kills = began + min(KILL_SECONDS, seconds / 3), 0
    memory: list[tuple[float, int]] = []
    while (passed := time.monotonic() - began) < seconds:
        traffic.step()
        view.poll()
        memory.append((passed / seconds, max(_resident(w) for w in running)))
        if time.monotonic() > next_kill:
            victim = rng.randrange(len(running))
            running[victim].kill()
            running[victim] = start(victim)
            kills += 1
            next_kill += KILL_SECONDS
            sys.stderr.write(f"soak: {passed:.0f} s, killed worker {victim}, {len(view.labels)} labels\n")
        time.sleep(STEP_SECONDS)
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end and (traffic.act(time.time()) or Counter(view.poll().labels) != traffic.due):
        view.poll()
    had = Counter(view.labels)
    early = max((m for at, m in memory if at < WARM_UP), default=1)
    late = max((m for at, m in memory if at >= WARM_UP), default=1)
    return {
        "seconds": seconds,
        "kills": kills,
        "labels": had.total(),
        "lost": (traffic.due - had).total(),
        "doubled": (had - traffic.due).total(),
        "dropped_by_the_filter": view.filtered,
        "dead_letters": len(view.letters),
        "memory_growth": late / early,
    }


def _resident(worker: Worker) -> int:
    try:
        return int(psutil.Process(worker.process.pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def main(seconds: Annotated[float, typer.Option(min=10)] = 600.0) -> None:
    """Soak."""
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(seconds, Path(folder))
    sys.stdout.write(json.dumps(figures) + "\n")
    good = not figures["lost"] and not figures["doubled"] and figures["memory_growth"] < MEMORY_GROWTH
    raise typer.Exit(0 if good else 1)


if __name__ == "__main__":
    typer.run(main)

"""The other sides of the join benchmark: a Faust agent that only reads, and the textbook join on a Table.

A process of its own. Prints how many messages it handled, and in how many seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from typing import Any

import faust
import msgspec

from schema.codec import FEATURE_LOGS, TRAINING_SAMPLES, USER_ACTIONS
from schema.records import FeatureLog, SampleBlock, Source, column


class Meter:
    """Counts messages from the first one on, until there were `total` or `seconds` are over."""

    def __init__(self, total: int, seconds: float) -> None:
        self._total, self._seconds = total, seconds
        self._count, self._began = 0, 0.0
        self.result: tuple[int, float] | None = None

    def tick(self) -> None:
        self._count += 1
        if self._count == 1:
            self._began = time.perf_counter()
        elif not self._count % 64 or self._count >= self._total:
            passed = time.perf_counter() - self._began
            if self._count >= self._total or passed > self._seconds:
                self.result = self.result or (self._count - 1, passed)


def bare(app: faust.App, logs: Any, actions: Any, meter: Meter) -> None:
    async def read(stream: Any) -> None:
        async for _ in stream:
            meter.tick()

    app.agent(logs, name="logs")(read)
    app.agent(actions, name="actions")(read)


def table(app: faust.App, logs: Any, actions: Any, meter: Meter, samples: str) -> None:
    requests = app.Table("requests", key_type=bytes, value_type=bytes, partitions=4)
    out = app.topic(samples, key_serializer="raw", value_serializer="raw")

    async def remember(stream: Any) -> None:
        async for message in stream:
            for log in FEATURE_LOGS.decode(message):
                if hasattr(log, "request_id"):
                    requests[log.request_id.encode()] = FEATURE_LOGS.encode([log])
            meter.tick()

    async def label(stream: Any) -> None:
        async for message in stream:
            for batch in USER_ACTIONS.decode(message):
                for action in getattr(batch, "actions", ()):
                    stored = requests.get(action.request_id.encode())
                    if stored:
                        await out.send(key=b"k", value=sample(stored, action))
            meter.tick()

    app.agent(logs)(remember)
    app.agent(actions)(label)


def sample(stored: bytes, action: Any) -> bytes:
    (log,) = FEATURE_LOGS.decode(stored)
    assert isinstance(log, FeatureLog)  # noqa: S101 - heartbeats are not stored
    items = log.item_ids()
    n = len(items)
    block = SampleBlock(
        Source(0, 0), 0, 0, log.request_id, log.user_id, log.event_time, log.surface, ("click",),
        column(range(n), "<u2"), log.items, log.positions, log.features,
        column(items == action.item_id, "<f4"), b"\1" * n, bytes(4 * n), log.scores,
    )  # fmt: skip
    return TRAINING_SAMPLES.encode([block])


async def run(
    *, side: str, bootstrap: str, logs: str, actions: str, samples: str, total: int, seconds: float
) -> None:
    app = faust.App(
        f"bench-{side}-{time.time_ns()}",
        broker=f"kafka://{bootstrap}",
        store="memory://",
        datadir=tempfile.mkdtemp(),
        web_enabled=False,
        consumer_auto_offset_reset="earliest",
        topic_partitions=4,
        worker_redirect_stdouts=False,
    )
    meter = Meter(total, seconds)
    log_topic, action_topic = (
        app.topic(t, key_serializer="raw", value_serializer="raw") for t in (logs, actions)
    )
    if side == "bare":
        bare(app, log_topic, action_topic, meter)
    else:
        table(app, log_topic, action_topic, meter, samples)
    await app.start()
    deadline = time.monotonic() + seconds + 120
    while meter.result is None and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    sys.stdout.write(json.dumps(meter.result) + "\n")
    sys.stdout.flush()
    os._exit(0 if meter.result else 1)  # nothing of it is needed any more


if __name__ == "__main__":
    arguments: dict[str, Any] = msgspec.json.decode(sys.argv[1])
    asyncio.run(run(**arguments))

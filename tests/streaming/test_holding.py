"""A partition that was just taken over waits a little for its past, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from schema.config import KafkaConfig
from streaming import holding
from streaming.counts import Counts
from streaming.holding import Holding
from streaming.rules import Rules
from tests.streaming.worker import deployment


class Clock:
    """A steady clock that the test sets, ms."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(holding, "steady_ms", made)
    return made


def held(tmp_path):
    """A partition whose past comes when the event that is given with it is set."""
    known = asyncio.Event()

    class Held(Holding):
        async def _bring_back(self, _store):
            await known.wait()

    config = deployment(KafkaConfig(), tmp_path, late_horizon_seconds=0.0)
    rules = Rules.of(config.streaming, config.tasks)

    def failed(_holding, error):
        raise error

    return known, Held(config, rules, 0, tmp_path, counts=Counts(), wake=lambda: None, failed=failed)


def test_it_settles_once_its_past_is_known(tmp_path, clock):
    async def settle():
        known, partition = held(tmp_path)
        settling = asyncio.create_task(partition.settle())
        await asyncio.sleep(0)
        before = settling.done()
        known.set()
        await settling
        await partition.close()
        return before

    assert asyncio.run(settle()) is False


def test_a_past_that_takes_longer_is_not_waited_for(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(holding, "_CLOSE_SECONDS", 0)

    async def settle():
        known, partition = held(tmp_path)
        clock.now += holding._SETTLE_MS
        await asyncio.wait_for(partition.settle(), timeout=60)
        waited = known.is_set()
        await partition.close()
        return waited

    assert asyncio.run(settle()) is False

"""Committed offsets are asked for until Kafka answers; and what it may have beyond what was read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaTimeoutError
from faust.types import TP

from streaming import offsets
from streaming.offsets import Offsets

PLACE = TP("logs", 2)


class Consumer:
    """A client of Faust's; nothing was committed. Kafka is away for the first `away` questions."""

    def __init__(self, away: int) -> None:
        self.asked = 0
        self._away = away
        self._thread = self

    def _ensure_consumer(self):
        return SimpleNamespace(committed=None)

    async def call_thread(self, *_args):
        return None

    async def earliest_offsets(self, place):
        self.asked += 1
        if self.asked <= self._away:
            raise KafkaTimeoutError
        return {place: 7}


def test_where_to_go_on_is_asked_until_kafka_is_back(monkeypatch):
    monkeypatch.setattr(offsets, "_RETRY_SECONDS", 0)
    consumer = Consumer(away=2)
    assert asyncio.run(Offsets(SimpleNamespace(consumer=consumer)).acknowledged(PLACE)) == 7
    assert consumer.asked == 3


def test_an_answer_asked_for_ahead_counts_once():
    consumer = Consumer(away=0)

    async def ask_ahead():
        some = Offsets(SimpleNamespace(consumer=consumer))
        some.ask([PLACE])
        return [await some.acknowledged(PLACE) for _ in range(2)], consumer.asked

    assert asyncio.run(ask_ahead()) == ([7, 7], 2)


def test_what_was_asked_before_partitions_changed_hands_is_asked_again():
    consumer = Consumer(away=0)

    async def ask_and_forget():
        some = Offsets(SimpleNamespace(consumer=consumer))
        some.ask([PLACE])
        some.forget()
        return await some.acknowledged(PLACE)

    assert asyncio.run(ask_and_forget()) == 7
    assert consumer.asked == 1


@pytest.mark.parametrize(
    ("position", "highwater", "more"),
    [(5, 9, True), (9, 9, False), (0, 0, False), (5, None, True), (None, None, True)],
)
def test_there_may_be_more_until_kafka_has_told_otherwise(position, highwater, more):
    state = SimpleNamespace(position=position, has_valid_position=position is not None, highwater=highwater)
    assert of_client({PLACE: state}).more(PLACE) is more


def test_of_a_place_that_is_not_this_workers_there_is_no_more():
    assert of_client({}).more(PLACE) is False


def of_client(states):
    """Offsets whose client has these states of what it reads."""
    assignment = SimpleNamespace(state_value=states.get)
    subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))
    thread = SimpleNamespace(_ensure_consumer=lambda: SimpleNamespace(_subscription=subscription))
    return Offsets(SimpleNamespace(consumer=SimpleNamespace(_thread=thread)))

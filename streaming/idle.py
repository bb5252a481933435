"""Finds out which topics were silent because there was nothing to read, by asking Kafka where they end.

Knows offsets, no records. What the client remembers of a topic's end is no evidence: it stands still while
the broker is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from streaming.partition import Partition
from streaming.watermark import Side

_log = logging.getLogger(__name__)

_EVERY_MS: Final = 250
_ANSWER_SECONDS: Final = 2.0
_ROUNDS: Final = 2


class IdleProbe:
    """Tells partitions when a topic of theirs was read to its end.

    Args:
        app: the Faust app, whose consumer is asked.
        topics: the names of the two topics, by side.
        rounds: how many fetches have been taken completely.
    """

    def __init__(self, app: faust.App, topics: tuple[str, str], rounds: Callable[[], int]) -> None:
        self._rounds = rounds
        self._at_end: dict[TP, tuple[int, int]] = {}
        self._app = app
        self._topics = topics
        self._last = 0
        self._answers = True

    def forget(self) -> None:
        """Partitions have changed hands."""
        self._at_end.clear()

    async def look(self, partitions: Mapping[int, Partition], now: int) -> None:
        """Ask for the topics that have been silent, at most every 250 ms. `now`: the steady clock, ms."""
        if now - self._last < _EVERY_MS:
            return
        self._last = now
        silent = [
            (partition, side)
            for partition in partitions.values()
            for side in Side
            if now - partition.clock.quiet_since(side) >= _EVERY_MS
        ]
        if not silent:
            return
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._ask(silent, now)
        except (TimeoutError, KafkaError, ConsumerNotStarted) as error:
            self._note(answers=False, detail=repr(error))
        else:
            self._note(answers=True)

    def _note(self, *, answers: bool, detail: str = "") -> None:
        if answers and not self._answers:
            _log.info("Kafka answers again")
        elif self._answers and not answers:
            _log.warning("Kafka does not answer (%s); event time stands still until it does", detail)
        self._answers = answers

    async def _ask(self, silent: list[tuple[Partition, Side]], now: int) -> None:
        consumer = self._app.consumer
        places = {TP(self._topics[side], p.number): (p, side) for p, side in silent}
        mine = consumer.assignment()
        places = {tp: place for tp, place in places.items() if tp in mine}
        if not places:
            return
        ends = await consumer.highwaters(*places)
        for tp, (partition, side) in places.items():
            if partition.next_offset(side) >= ends[tp] or await self._passed(tp, ends[tp]):
                partition.clock.drained(side, now)

    async def _passed(self, place: TP, end: int) -> bool:
        """Whether reading has passed `end` without a message: over a transaction's marker, or from the start.

        The client's position passes messages that are still on their way to the partition. They have arrived
        once whole rounds of reading have ended since.
        """
        rounds = self._rounds()
        if self._at_end.get(place, (None, 0))[0] != end:
            if (await self._app.consumer.position(place) or 0) < end:
                return False
            self._at_end[place] = (end, rounds)
        return rounds >= self._at_end[place][1] + _ROUNDS

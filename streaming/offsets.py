"""Committed offsets of the joiner's group, and how far topics reach. Knows Faust's consumer, no records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import faust
from aiokafka.errors import KafkaError
from faust.types import TP

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0


class Offsets:
    """What this worker has committed.

    Args:
        app: the Faust app, whose consumer is used.
    """

    def __init__(self, app: faust.App) -> None:
        self._app = app
        self._committed: dict[TP, int] = {}
        self._asked: dict[TP, asyncio.Task[int]] = {}
        self._committing = asyncio.Lock()

    def forget(self) -> None:
        """Partitions have changed hands, or soon nobody is there to ask."""
        self._committed.clear()
        for task in self._asked.values():
            task.cancel()
        self._asked.clear()

    def ask(self, places: Iterable[TP]) -> None:
        """Find out where reading goes on, for whoever asks `acknowledged` next: it takes a while."""
        self._asked |= {place: asyncio.create_task(self._patiently(place)) for place in places}

    async def commit(self, safe: Callable[[], Mapping[TP, int]]) -> None:
        """Commit what `safe` says, which is asked once the commit before has ended."""
        async with self._committing:
            new = {place: offset for place, offset in safe().items() if self._committed.get(place) != offset}
            if new and await self._app.consumer._commit(new):  # type: ignore[attr-defined]  # noqa: SLF001
                self._committed.update(new)

    async def acknowledged(self, place: TP) -> int:
        """Where the group goes on reading. Waits for as long as Kafka is away."""
        asked = self._asked.pop(place, None)
        return await (self._patiently(place) if asked is None else asked)

    async def _patiently(self, place: TP) -> int:
        while True:
            try:
                return await self._acknowledged(place)
            except KafkaError as error:
                _log.warning("%s %d: Kafka does not say what was acknowledged (%s)", *place, error)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _acknowledged(self, place: TP) -> int:
        thread = self._app.consumer._thread  # type: ignore[attr-defined]  # noqa: SLF001
        client = thread._ensure_consumer()  # noqa: SLF001
        committed = await thread.call_thread(client.committed, place)
        return int(committed or (await self._app.consumer.earliest_offsets(place))[place])

    def more(self, place: TP) -> bool:
        """Whether Kafka has told of messages that were not handed out yet, or has told nothing so far."""
        client = self._app.consumer._thread._ensure_consumer()  # type: ignore[attr-defined]  # noqa: SLF001
        subscription = client._subscription.subscription  # noqa: SLF001
        assignment = None if subscription is None else subscription.assignment
        state = assignment.state_value(place) if assignment is not None else None
        if state is None:
            return False
        told = state.has_valid_position and state.highwater is not None
        return not told or bool(state.position < state.highwater)

    def unread(self, read: Mapping[TP, int]) -> dict[tuple[str, int], int]:
        """How many messages lie beyond those read; nothing is said of a topic that was not begun."""
        ends = {place: self._app.consumer.highwater(place) or 0 for place, at in read.items() if at}
        return {(place.topic, place.partition): max(0, end - read[place]) for place, end in ends.items()}

"""The thread that follows the catalogue, actions and feature logs, from where it last was.

Holds the consumer; what the messages mean is the intake's business, and what is remembered the memory's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from runtime.errors import PlumbingError
from runtime.kafka import consumer, end_offsets
from schema.config import KafkaConfig
from serving.intake import Intake, Stream
from serving.memory import Memory

_log = logging.getLogger(__name__)

_POLL_MS: Final = 100
_POLL_RECORDS: Final = 500
_POSITION_MS: Final = 1000
_RETRY_SECONDS: Final = 1.0
_FETCH_BYTES: Final = 1 << 20
_SAVE_MS: Final = 1000


class Follower:
    """Feeds an intake. Every replica reads everything, so there is no consumer group and no commit.

    The catalogue is read first, and always whole, to the end that it has at the start: until then nothing
    could be recommended. Actions and feature logs are read on from where the memory was last saved, which is
    once a second.

    Args:
        config: the broker and the topics.
        intake: what takes the messages.
        clock: Unix ms.
        memory: what survives a restart; None for nothing.
    """

    def __init__(
        self,
        config: KafkaConfig,
        intake: Intake,
        clock: Callable[[], int],
        memory: Memory | None = None,
    ) -> None:
        self._config = config
        self._intake = intake
        self._clock = clock
        topics = config.topics
        self._streams = {
            topics.catalogue.name: Stream.CATALOGUE,
            topics.user_actions.name: Stream.ACTIONS,
            topics.feature_logs.name: Stream.LOGS,
        }
        # where each partition is read on after the connection was lost
        self._positions: dict[TopicPartition, int] = {}
        self._memory = memory
        self._saved_at = 0
        self._caught_up = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    @property
    def caught_up(self) -> bool:
        """Whether the catalogue has been read to the end that it had at the start."""
        return self._caught_up.is_set()

    @property
    def saved_at(self) -> int:
        """When the memory was saved last, in Unix ms; 0 for never."""
        return self._saved_at

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End the thread, within `timeout` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        if self._memory is None:
            self._read()
            return
        places = self._memory.restore(self._intake.histories, self._intake.popularity)
        self._positions.update((TopicPartition(*place), offset) for place, offset in places.items())
        try:
            self._read()
            # not after a failure, which may have come half-way through a batch or a save
            self._save(self._memory)
        finally:
            self._memory.close()

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (KafkaError, PlumbingError) as error:
                _log.warning("following the topics: %s; trying again", error)
                self._stop.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        reader = consumer(
            self._config, max_poll_records=_POLL_RECORDS, max_partition_fetch_bytes=_FETCH_BYTES
        )
        try:
            if not self.caught_up:
                self._catch_up(reader)
            self._assign(reader, list(self._streams))
            while not self._stop.is_set():
                self._take(reader)
        finally:
            reader.close()

    def _catch_up(self, reader: Any) -> None:
        name = self._config.topics.catalogue.name
        ends = end_offsets(reader, name)
        self._assign(reader, [name])
        while not self._stop.is_set():
            # asked of the consumer, since what compaction has left may end before the end offset
            at = {p: reader.position(TopicPartition(name, p), timeout_ms=_POSITION_MS) for p in ends}
            if all(at[p] is not None and at[p] >= end for p, end in ends.items()):
                self._caught_up.set()
                _log.info("the catalogue is read: %d items", self._intake.catalogue.items)
                return
            self._take(reader)

    def _assign(self, reader: Any, topics: list[str]) -> None:
        ends = {TopicPartition(t, p): end for t in topics for p, end in end_offsets(reader, t).items()}
        if any(self._positions.get(place, 0) > end for place, end in ends.items()):
            # these are other topics of the same names, or the broker has lost its data
            self._positions.clear()
            if self._memory is not None:
                self._memory.forget(self._intake.histories, self._intake.popularity)
        places = list(ends)
        reader.assign(places)
        for place in places:
            if place in self._positions:
                reader.seek(place, self._positions[place])
            else:
                reader.seek_to_beginning(place)

    def _take(self, reader: Any) -> None:
        polled = reader.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        messages = [
            (self._streams[place.topic], message.value)
            for place, batch in polled.items()
            for message in batch
        ]
        self._intake.take(messages, self._clock())
        self._positions.update((place, batch[-1].offset + 1) for place, batch in polled.items() if batch)
        if self._memory is not None and abs(self._clock() - self._saved_at) >= _SAVE_MS:
            self._save(self._memory)

    def _save(self, memory: Memory) -> None:
        catalogue = self._config.topics.catalogue.name
        places = {(p.topic, p.partition): at for p, at in self._positions.items() if p.topic != catalogue}
        memory.save(self._intake.histories, self._intake.popularity, places)
        self._saved_at = self._clock()

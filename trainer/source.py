"""The samples topic of Kafka, read and decoded in a thread of its own; no other file holds the client."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Collection, Mapping
from typing import Any, Final

from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError

from runtime.errors import BrokerUnavailable
from runtime.kafka import consumer, end_offsets
from schema.config import KafkaConfig
from trainer.entries import Position
from trainer.errors import RecoveryError, SourceFailed
from trainer.feed import Chunk
from trainer.messages import Message, MessageReader

_log = logging.getLogger(__name__)

_POLL_MS: Final = 100
_MESSAGES_A_CHUNK: Final = 32
_CHUNKS_AHEAD: Final = 8
_STOP_SECONDS: Final = 10.0


class KafkaSource:
    """Reads all partitions of the samples topic from given positions, a few chunks ahead of training.

    Args:
        config: the broker and its topics.
        group: where positions are committed, for those who watch lag; they are never read back.
        reader: decodes messages.
    """

    def __init__(self, config: KafkaConfig, group: str, reader: MessageReader) -> None:
        self._topic = config.topics.training_samples.name
        self._reader = reader
        self._consumer = consumer(config, group=group)
        self._chunks: queue.Queue[Chunk] = queue.Queue(_CHUNKS_AHEAD)
        self._held: frozenset[int] = frozenset()
        self._commits: queue.SimpleQueue[Mapping[int, Position]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    @property
    def history(self) -> bool:
        """Never."""
        return False

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin to read at `positions`, which name every partition.

        Raises:
            RecoveryError: a partition ends before its position: it is not the topic that was read before.
            BrokerUnavailable: the broker does not answer.
        """
        ends = end_offsets(self._consumer, self._topic)
        for partition, position in positions.items():
            if position.offset > ends.get(partition, 0):
                raise RecoveryError(
                    f"topic {self._topic!r}, partition {partition} ends at {ends.get(partition, 0)} and was "
                    f"trained up to {position.offset}; legal is the same topic, or another run_dir"
                )
        places = {TopicPartition(self._topic, p): position for p, position in positions.items()}
        self._consumer.assign(list(places))
        for place, position in places.items():
            self._consumer.seek(place, position.offset)
        self._thread.start()

    def get(self, timeout: float) -> Chunk | None:
        """The next chunk, or None if there is none within `timeout` seconds.

        Raises:
            SourceFailed: reading has ended with an error.
        """
        try:
            if timeout <= 0:
                return self._chunks.get_nowait()
            return self._chunks.get(timeout=timeout)
        except queue.Empty:
            if self._failure is not None:
                raise SourceFailed(f"topic {self._topic!r}: {self._failure}") from self._failure
            return None

    def hold(self, partitions: frozenset[int]) -> None:
        """Read no further in `partitions` until they are no longer named."""
        self._held = partitions

    def commit(self, positions: Mapping[int, Position]) -> None:
        """Commit `positions` soon."""
        self._commits.put(dict(positions))

    def stop(self) -> None:
        """End reading and close the connection."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)
        self._consumer.close()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._commit()
                self._read()
            self._commit()
        except Exception as error:  # noqa: BLE001 - whatever ends this thread has to end the process
            self._failure = error

    def _read(self) -> None:
        self._apply_hold()
        polled = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_MESSAGES_A_CHUNK)
        messages = [
            Message(place.partition, message.offset, message.value, message.timestamp)
            for place, messages in polled.items()
            for message in messages
        ]
        chunk = Chunk(tuple(self._reader.read(messages)), self._behind())
        while not self._stopping.is_set():
            try:
                self._chunks.put(chunk, timeout=_POLL_MS / 1000)
            except queue.Full:
                continue
            return

    def _apply_hold(self) -> None:
        held, paused = self._held, self._consumer.paused()
        for place in self._consumer.assignment():
            if place.partition in held and place not in paused:
                self._consumer.pause(place)
            elif place.partition not in held and place in paused:
                self._consumer.resume(place)

    def _behind(self) -> frozenset[int]:
        return frozenset(place.partition for place in self._consumer.assignment() if self._is_behind(place))

    def _is_behind(self, place: Any) -> bool:
        end = self._consumer.highwater(place)
        return end is None or self._consumer.position(place) < end

    def _commit(self) -> None:
        positions: Mapping[int, Position] = {}
        while not self._commits.empty():
            positions = self._commits.get()
        offsets = {
            TopicPartition(self._topic, p): OffsetAndMetadata(position.offset, "", -1)
            for p, position in positions.items()
        }
        if not offsets:
            return
        try:
            self._consumer.commit(offsets, timeout_ms=5000)
        except KafkaError as error:
            # only those who watch lag read this; it is committed again soon
            _log.warning("topic %s: positions were not committed: %s", self._topic, error)


class LagMeter:
    """How many messages of `partitions` of the samples topic lie beyond a position. Safe from any thread."""

    def __init__(self, config: KafkaConfig, partitions: Collection[int]) -> None:
        self._partitions = partitions
        self._topic = config.topics.training_samples.name
        self._lock = threading.Lock()
        self._consumer = consumer(config)

    def lag(self, positions: Mapping[int, Position]) -> int | None:
        """Messages not wholly before `positions`, asked of the broker now; None if it does not answer."""
        with self._lock:
            try:
                ends = end_offsets(self._consumer, self._topic, seconds=5.0)
            except BrokerUnavailable as error:
                _log.warning("the lag is not known: %s", error)
                return None
        return sum(
            max(0, end - positions.get(p, Position(0)).offset)
            for p, end in ends.items()
            if p in self._partitions
        )

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._consumer.close()

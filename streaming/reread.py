"""Reads back what a new owner of a partition has to know, in its own thread; `recall` says what it means.

Knows Kafka's client, topics and times; takes no part in the consumer group.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from kafka import TopicPartition

from runtime.kafka import consumer
from schema.codec import FEATURE_LOGS, TRAINING_SAMPLES
from schema.config import Config
from schema.errors import InvalidMessage
from schema.records import FeatureLog, SampleBlock
from streaming.late import LateStore
from streaming.recall import absorb_blocks, absorb_logs
from streaming.rocks import Mark

_log = logging.getLogger(__name__)

_POLL_MS: Final = 500
_MESSAGES: Final = 500
_CLOCKS_MS: Final = 10_000
"""Kafka's clock and this machine's may differ by this much."""


class Stopped(Exception):  # noqa: N818 - named for what happened
    """The partition was given away meanwhile."""


class Reread:
    """The past of partition `number`.

    Args:
        config: the deployment.
        number: the partition.
        store: what learns of the past. No other thread may use this object.
        mark: how far the store goes, None for an empty one.
        stopped: asked between batches; once it says yes, the methods raise Stopped.
    """

    def __init__(
        self, config: Config, number: int, store: LateStore, mark: Mark | None, stopped: Callable[[], bool]
    ) -> None:
        topics = config.kafka.topics
        self._store = store
        self._mark = mark
        self._stopped = stopped
        self._horizon = round(config.streaming.late_horizon_seconds * 1000)
        self._logs = TopicPartition(topics.feature_logs.name, number)
        self._samples = TopicPartition(topics.training_samples.name, number)
        self._reader = consumer(config.kafka, group=config.streaming.app_id)
        self._reader.assign([self._logs, self._samples])
        self._committed = 0
        self._samples_from = 0
        self._samples_end = 0

    def locate(self) -> None:
        """Find out where to read; call it first."""
        first = self._reader.beginning_offsets([self._logs])[self._logs]
        self._committed = max(first, self._reader.committed(self._logs) or 0)
        since = self._time_of(self._committed)
        end = self._end(self._samples)
        self._samples_from = end if since is None else self._offset_at(self._samples, since - _CLOCKS_MS)
        self._samples_end = end

    def recall(self) -> None:
        """What was emitted since the oldest feature log that was not acknowledged came."""
        self._absorb_blocks(self._samples_from, self._samples_end)

    def catch_up(self) -> None:
        """What closed before that and is not in the store yet."""
        since = int(time.time() * 1000) - self._horizon
        low = self._offset_at(self._logs, since)
        if self._mark is not None:
            since, low = max(since, self._mark.at - _CLOCKS_MS), max(low, self._mark.low)
        self._absorb_blocks(self._offset_at(self._samples, since), self._samples_from)
        found = 0
        for batch in self._batches(self._logs, low, self._committed):
            records = list(_feature_logs(batch))
            found += len(records)
            absorb_logs(self._store, records)
        if found:
            _log.info(
                "partition %d: %d closed requests are in the late store again", self._logs.partition, found
            )

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def _absorb_blocks(self, start: int, end: int) -> None:
        for batch in self._batches(self._samples, start, end):
            absorb_blocks(self._store, _sample_blocks(batch))

    def _batches(self, place: TopicPartition, start: int, end: int) -> Iterator[list[Any]]:
        """The messages from offset `start` up to but without `end`."""
        if start >= end:
            return
        other = self._logs if place == self._samples else self._samples
        self._reader.pause(other)
        self._reader.resume(place)
        self._reader.seek(place, start)
        while self._reader.position(place) < end:
            if self._stopped():
                raise Stopped
            messages = self._reader.poll(timeout_ms=_POLL_MS, max_records=_MESSAGES).get(place, [])
            yield [m for m in messages if m.offset < end]

    def _time_of(self, offset: int) -> int | None:
        """When Kafka had the message at `offset` or the next one, None if there is none yet."""
        for messages in self._batches(self._logs, offset, self._end(self._logs)):
            if messages:
                return int(messages[0].timestamp)
        return None

    def _offset_at(self, place: TopicPartition, timestamp: int) -> int:
        found = self._reader.offsets_for_times({place: max(0, timestamp)})[place]
        return self._end(place) if found is None else int(found.offset)

    def _end(self, place: TopicPartition) -> int:
        return int(self._reader.end_offsets([place])[place])


def _sample_blocks(messages: list[Any]) -> Iterator[SampleBlock]:
    for message in messages:
        try:
            yield from TRAINING_SAMPLES.decode(message.value)
        except InvalidMessage as error:
            _log.warning("samples, offset %d: %s", message.offset, error)


def _feature_logs(messages: list[Any]) -> Iterator[tuple[FeatureLog, int, int]]:
    for message in messages:
        try:
            records = FEATURE_LOGS.decode(message.value)
        except InvalidMessage:
            continue  # a dead letter by now
        for index, record in enumerate(records):
            if isinstance(record, FeatureLog) and record.problem() is None:
                yield record, message.offset, index

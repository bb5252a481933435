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
from schema.codec import TRAINING_SAMPLES, USER_ACTIONS
from schema.config import Config
from schema.errors import InvalidMessage
from schema.records import SampleBlock
from streaming import heads
from streaming.heads import Head, Log, Outlines
from streaming.late import LateStore
from streaming.recall import Recalled, absorb_blocks, absorb_logs, found, orphans
from streaming.rocks import Mark
from streaming.sampling import STRETCH, Sampler
from streaming.waiting import Arrival

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
        self._config = config
        self._horizon = round(config.streaming.late_horizon_seconds * 1000)
        self._logs = TopicPartition(topics.feature_logs.name, number)
        self._actions = TopicPartition(topics.user_actions.name, number)
        self._samples = TopicPartition(topics.training_samples.name, number)
        self._places = [self._logs, self._actions, self._samples]
        self._reader = consumer(config.kafka, group=config.streaming.app_id)
        self._reader.assign(self._places)
        self._outlines = Outlines()
        self._committed = dict.fromkeys(self._places, 0)
        self._samples_from = 0
        self._samples_end = 0
        self._fresh = False

    def locate(self) -> None:
        """Find out where to read; call it first."""
        first = self._reader.beginning_offsets(self._places)
        for place in (self._logs, self._actions):
            self._committed[place] = max(first[place], self._reader.committed(place) or 0)
        silent = self._end(self._samples) <= first[self._samples]
        self._fresh = silent and all(
            self._committed[place] == first[place] for place in (self._logs, self._actions)
        )
        since = None if silent else self._time_of(self._committed[self._logs])
        end = self._end(self._samples)
        self._samples_from = end if since is None else self._offset_at(self._samples, since - _CLOCKS_MS)
        self._samples_end = end

    def recall(self) -> Recalled:
        """What was emitted since the oldest feature log that was not acknowledged came."""
        closed_below = self._absorb_blocks(self._samples_from, self._samples_end)
        sampler, scored = self._sampler(), []
        if sampler.by_score:
            end = self._committed[self._logs]
            for offset, logs in self._feature_logs(_stretch_before(end), end):
                scored.append(sampler.score(offset, [head for _, head, _ in logs]))
        return Recalled([one for one in scored if one is not None], closed_below)

    def catch_up(self, park: Callable[[list[Arrival]], None]) -> list[str]:
        """What closed before that and is not in the store yet, and the actions that were parked then.

        Args:
            park: called with actions that were acknowledged, and may not have been joined.

        Returns:
            Closed requests that have parked actions in the store.
        """
        if self._fresh:
            return list(found(self._store))
        since = int(time.time() * 1000) - self._horizon
        low, actions = self._offset_at(self._logs, since), self._offset_at(self._actions, since)
        if self._mark is not None:
            since = max(since, self._mark.at - _CLOCKS_MS)
            low, actions = max(low, self._mark.low), max(actions, self._mark.actions)
        self._absorb_blocks(self._offset_at(self._samples, since), self._samples_from)
        self._absorb_logs(low)
        for batch in self._batches(self._actions, actions, self._committed[self._actions]):
            some = list(self._orphans(batch))
            if some:
                park(some)
        return list(found(self._store))

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()

    def _absorb_blocks(self, start: int, end: int) -> int:
        batches = self._batches(self._samples, start, end)
        return max((absorb_blocks(self._store, _sample_blocks(batch)) for batch in batches), default=0)

    def _absorb_logs(self, low: int) -> None:
        sampler, end, count = self._sampler(), self._committed[self._logs], 0
        for offset, logs in self._feature_logs(_stretch_before(low) if sampler.by_score else low, end):
            absorb_logs(self._store, sampler, offset, logs, low)
            count += len(logs)
        self._store.flush()
        if count:
            _log.info("partition %d: %d closed requests were read again", self._logs.partition, count)

    def _sampler(self) -> Sampler:
        return Sampler(self._config.streaming.sampling, tuple(t.name for t in self._config.tasks))

    def _feature_logs(self, start: int, end: int) -> Iterator[tuple[int, list[Log]]]:
        for batch in self._batches(self._logs, start, end):
            for message in batch:
                yield message.offset, list(self._sound(message.value))

    def _sound(self, value: bytes | None) -> Iterator[Log]:
        try:
            records = heads.read(value)
        except InvalidMessage:
            return  # a dead letter by now
        for index, (packed, record) in enumerate(records):
            if isinstance(record, Head) and self._outlines.problem(record, packed) is None:
                yield packed, record, index

    def _orphans(self, messages: list[Any]) -> Iterator[Arrival]:
        for message in messages:
            try:
                records = USER_ACTIONS.decode(message.value)
            except InvalidMessage:
                continue  # a dead letter by now
            yield from orphans(self._store, self._committed[self._logs], message.offset, records)

    def _batches(self, place: TopicPartition, start: int, end: int) -> Iterator[list[Any]]:
        """The messages from offset `start` up to but without `end`."""
        if start >= end:
            return
        self._reader.pause(*(other for other in self._places if other != place))
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
        at = self._reader.offsets_for_times({place: max(0, timestamp)})[place]
        return self._end(place) if at is None else int(at.offset)

    def _end(self, place: TopicPartition) -> int:
        return int(self._reader.end_offsets([place])[place])


def _stretch_before(offset: int) -> int:
    """From where on the mean for `offset` is made of."""
    return max(0, offset // STRETCH - 1) * STRETCH


def _sample_blocks(messages: list[Any]) -> Iterator[SampleBlock]:
    for message in messages:
        try:
            yield from TRAINING_SAMPLES.decode(message.value)
        except InvalidMessage as error:
            _log.warning("samples, offset %d: %s", message.offset, error)

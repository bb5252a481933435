"""Finds one request's feature log in its topic, the newest messages first.

A request id says nothing of when or where it was logged, so this reads back from the ends of all partitions
to their beginnings. Telling the user names the partition.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

from kafka import TopicPartition

from runtime.kafka import consumer, end_offsets, wait_for_broker
from schema.codec import FEATURE_LOGS
from schema.config import KafkaConfig
from schema.errors import InvalidMessage
from schema.ids import partition_of
from schema.records import FeatureLog

_log = logging.getLogger(__name__)

_STRIDE: Final = 2_000
"""Messages of a partition that are read before the next partition's."""
_POLL_MS: Final = 200
_BROKER_SECONDS: Final = 2.0


def recall(
    config: KafkaConfig, request_id: str, user: int | None = None, seconds: float = 60.0
) -> FeatureLog | None:
    """The log of `request_id`, None where the topic has none or `seconds` were not enough.

    Raises:
        BrokerUnavailable: the broker does not answer.
    """
    topic = config.topics.feature_logs
    deadline = time.monotonic() + seconds
    wait_for_broker(config, _BROKER_SECONDS)
    with closing(consumer(config)) as reader:
        ends = end_offsets(reader, topic.name)
        if user is not None:
            mine = partition_of(user, topic.partitions)
            ends = {mine: ends[mine]}
        places = {TopicPartition(topic.name, p): end for p, end in ends.items()}
        begins = reader.beginning_offsets(list(places))
        while places and time.monotonic() < deadline:
            for place, end in list(places.items()):
                start = max(begins[place], end - _STRIDE)
                for message in _messages(reader, place, (start, end), deadline):
                    found = _in(message.value, request_id)
                    if found is not None:
                        return found
                places[place] = start
                if start == begins[place]:
                    del places[place]
    return None


def _messages(reader: Any, place: TopicPartition, span: tuple[int, int], deadline: float) -> Iterator[Any]:
    start, end = span
    if start == end:
        return
    reader.assign([place])
    reader.seek(place, start)
    while reader.position(place) < end and time.monotonic() < deadline:
        for messages in reader.poll(timeout_ms=_POLL_MS).values():
            yield from messages


def _in(value: bytes | None, request_id: str) -> FeatureLog | None:
    if value is None or request_id.encode() not in value:
        return None
    try:
        records = FEATURE_LOGS.decode(value)
    except InvalidMessage as error:
        _log.warning("a message that names %s cannot be read: %s", request_id, error)
        return None
    logs = (record for record in records if isinstance(record, FeatureLog))
    return next((log for log in logs if log.request_id == request_id), None)

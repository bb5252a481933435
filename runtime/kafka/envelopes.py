"""An envelope producer: groups records of one partition into one message, and answers for their delivery.

Knows the codec's interface and the partition rule, not what the records mean.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

from kafka.errors import KafkaError, KafkaTimeoutError
from prometheus_client import Counter

from runtime.errors import DeliveryFailed
from runtime.kafka.clients import producer
from schema.codec import Codec
from schema.config import KafkaConfig, TopicConfig
from schema.ids import partition_of, user_key

_log = logging.getLogger(__name__)

MAX_ENVELOPE_BYTES: Final = 512 << 10
_MAX_UNACKNOWLEDGED_BYTES: Final = 32 << 20
_BLOCK_SECONDS: Final = 120.0

_RECORDS: Final = Counter("headwater_records_sent", "Records acknowledged by the broker.", ["topic"])
_ENVELOPES: Final = Counter("headwater_envelopes_sent", "Messages acknowledged by the broker.", ["topic"])
_FAILURES: Final = Counter("headwater_delivery_failures", "Messages that were not delivered.", ["topic"])

R = TypeVar("R")


@dataclass(slots=True)
class _Envelope(Generic[R]):
    key: bytes | None
    records: list[R] = field(default_factory=list)
    size: int = 0


class EnvelopeProducer(Generic[R]):
    """Sends records to one topic in envelopes, in order within each partition. Safe to use from any thread.

    An envelope leaves when its first record is `linger_seconds` old, or when it holds `max_records` records
    or MAX_ENVELOPE_BYTES. While 32 MB wait for the broker, `send` blocks.

    Args:
        config: the broker.
        topic: the topic; its `partitions` decide where a user's records go.
        codec: the topic's codec.
        linger_seconds: how long a record may wait for company.
        max_records: the most records of an envelope.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topic: TopicConfig,
        codec: Codec[R],
        *,
        linger_seconds: float = 0.005,
        max_records: int = 64,
    ) -> None:
        if max_records < 1:
            raise ValueError(f"max_records: {max_records}; legal is 1 and above")
        self._topic = topic
        self._codec = codec
        self._linger = linger_seconds
        self._max_records = max_records
        self._producer = producer(config)
        self._open: dict[int, _Envelope[R]] = {}
        self._unacknowledged = 0
        self._failed = 0
        self._first_failure: Exception | None = None
        self._closed = False
        # one lock for the open envelopes, so that what leaves them is sent in order; another, which the
        # library's thread takes too, for what became of them
        self._filling = threading.Condition()
        self._delivery = threading.Condition()
        self._flusher = threading.Thread(target=self._flush_when_due, name=f"flush {topic.name}", daemon=True)
        self._flusher.start()

    def send(self, user_id: int, record: R) -> None:
        """Send `record` to the partition of `user_id`.

        Raises:
            DeliveryFailed: the broker has not kept up for two minutes.
            ValueError: the producer is closed.
        """
        self._add(partition_of(user_id, self._topic.partitions), record, user_key(user_id))

    def send_to(self, partition: int, record: R, key: bytes | None = None) -> None:
        """Send `record` to `partition`; `key` counts if the record is the first of its envelope.

        Raises:
            DeliveryFailed: the broker has not kept up for two minutes.
            ValueError: the topic has no such partition, or the producer is closed.
        """
        if not 0 <= partition < self._topic.partitions:
            raise ValueError(f"partition: {partition}; legal is 0 to {self._topic.partitions - 1}")
        self._add(partition, record, key)

    def flush(self, timeout: float) -> None:
        """Return once everything sent so far is acknowledged.

        Raises:
            DeliveryFailed: it was not within `timeout` seconds, or a message has failed since the last flush.
        """
        with self._filling:
            self._send_open()
        try:
            self._producer.flush(timeout)
        except KafkaTimeoutError as error:
            raise DeliveryFailed(
                f"topic {self._topic.name!r}: {self._unacknowledged} bytes are not acknowledged "
                f"after {timeout:g} s"
            ) from error
        self._raise_failures()

    def close(self, timeout: float) -> None:
        """Flush and close. Calling it again does nothing.

        Raises:
            DeliveryFailed: as `flush`; the producer is closed all the same.
        """
        with self._filling:
            if self._closed:
                return
            self._closed = True
            self._filling.notify_all()
        deadline = time.monotonic() + timeout
        try:
            self.flush(timeout)
        finally:
            self._flusher.join(max(0.1, deadline - time.monotonic()))
            self._close_producer(max(0.1, deadline - time.monotonic()))

    def _close_producer(self, timeout: float) -> None:
        try:
            self._producer.close(timeout)
        except KafkaTimeoutError:
            # `flush` has told the caller of what is lost
            _log.warning("closing the producer of %s with messages not acknowledged", self._topic.name)

    def _add(self, partition: int, record: R, key: bytes | None) -> None:
        size = len(self._codec.encode((record,)))
        self._wait_for_room()
        with self._filling:
            if self._closed:
                raise ValueError(f"topic {self._topic.name!r}: the producer is closed")
            envelope = self._open.get(partition)
            if envelope is not None and envelope.size + size > MAX_ENVELOPE_BYTES:
                self._send_envelope(partition, self._open.pop(partition))
                envelope = None
            if envelope is None:
                envelope = self._open[partition] = _Envelope(key)
                self._filling.notify_all()
            envelope.records.append(record)
            envelope.size += size
            if len(envelope.records) >= self._max_records:
                self._send_envelope(partition, self._open.pop(partition))

    def _wait_for_room(self) -> None:
        with self._delivery:
            if not self._delivery.wait_for(
                lambda: self._unacknowledged < _MAX_UNACKNOWLEDGED_BYTES, _BLOCK_SECONDS
            ):
                raise DeliveryFailed(
                    f"topic {self._topic.name!r}: the broker has acknowledged too little for "
                    f"{_BLOCK_SECONDS:g} s; {self._unacknowledged} bytes wait"
                )

    def _flush_when_due(self) -> None:
        while True:
            with self._filling:
                self._filling.wait_for(lambda: self._open or self._closed)
                if self._closed:
                    return
                self._filling.wait_for(lambda: self._closed, self._linger)
                self._send_open()

    def _send_open(self) -> None:
        while self._open:
            self._send_envelope(*self._open.popitem())

    def _send_envelope(self, partition: int, envelope: _Envelope[R]) -> None:
        value = self._codec.encode(envelope.records)
        with self._delivery:
            self._unacknowledged += len(value)
        failed = partial(self._on_failure, len(value))
        try:
            sent: Any = self._producer.send(
                self._topic.name, value=value, key=envelope.key, partition=partition
            )
        except KafkaError as error:
            failed(error)
            return
        sent.add_callback(partial(self._on_success, len(value), len(envelope.records)))
        sent.add_errback(failed)

    def _on_success(self, size: int, records: int, _metadata: object) -> None:
        _RECORDS.labels(self._topic.name).inc(records)
        _ENVELOPES.labels(self._topic.name).inc()
        with self._delivery:
            self._unacknowledged -= size
            self._delivery.notify_all()

    def _on_failure(self, size: int, error: Exception) -> None:
        _FAILURES.labels(self._topic.name).inc()
        _log.error("a message to %s was not delivered: %s", self._topic.name, error)
        with self._delivery:
            self._unacknowledged -= size
            self._failed += 1
            self._first_failure = self._first_failure or error
            self._delivery.notify_all()

    def _raise_failures(self) -> None:
        with self._delivery:
            failed, error = self._failed, self._first_failure
            self._failed, self._first_failure = 0, None
        if failed:
            raise DeliveryFailed(
                f"topic {self._topic.name!r}: {failed} messages were not delivered; the first: {error}"
            ) from error

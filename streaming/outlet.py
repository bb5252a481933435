"""Sends parcels in order, retries what can be retried, and reports what has arrived.

Knows producers, no join.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import faust
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from faust.exceptions import ProducerSendError

from schema.config import TopicsConfig
from streaming.parcels import Blocks, Parcel
from streaming.partition import Partition

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0


class Outlet:
    """Where parcels leave for Kafka: blocks to their partition of the samples, letters to the dead letters.

    Args:
        app: the Faust app, whose producer is used.
        topics: their names.
        delivered: called with the partition and the parcel once the broker has it.
        failed: called with the error where a parcel cannot be delivered at all.
    """

    def __init__(
        self,
        app: faust.App,
        topics: TopicsConfig,
        delivered: Callable[[Partition, Parcel], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._topics = topics
        self._delivered = delivered
        self._failed = failed
        self._in_flight: set[asyncio.Future[Any]] = set()

    async def send(self, partition: Partition, parcel: Parcel) -> None:
        """Hand the parcel to the producer, after all those before it; waits while the producer is full."""
        while True:
            try:
                sent = await self._produce(partition, parcel)
            except ProducerSendError as error:
                if isinstance(error.__cause__, MessageSizeTooLargeError) and isinstance(parcel, Blocks):
                    partition.undeliverable(parcel)
                    return
                if not isinstance(error.__cause__, KafkaTimeoutError):
                    raise
                _log.warning("the broker takes no messages (%s), trying again", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self._in_flight.add(sent)
                sent.add_done_callback(lambda future: self._done(future, partition, parcel))
                return

    async def settle(self) -> None:
        """Wait until everything sent has arrived."""
        if self._in_flight:
            await asyncio.wait(self._in_flight)

    async def _produce(self, partition: Partition, parcel: Parcel) -> asyncio.Future[Any]:
        if isinstance(parcel, Blocks):
            topic, number = self._topics.training_samples, partition.number
        else:
            topic = self._topics.dead_letters
            number = partition.number % topic.partitions
        sent = await self._app.producer.send(topic.name, parcel.key, parcel.value, number, None, None)
        return asyncio.ensure_future(sent)

    def _done(self, future: asyncio.Future[Any], partition: Partition, parcel: Parcel) -> None:
        self._in_flight.discard(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._delivered(partition, parcel)
        else:
            self._failed(error)

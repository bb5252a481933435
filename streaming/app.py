"""The Faust app of the joiner: how it reads, writes and shares partitions. Knows nothing of the join.

Faust leaves three things to its drivers that this job depends on, so its consumer and producer are subclassed
here: which worker has which partition, how long a fetch may wait, and that a batch is written exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import ConsumerStoppedError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from runtime.kafka.clients import MAX_MESSAGE_BYTES
from schema.config import Config

_FETCH_WAIT_MS: Final = 100
"""Faust asks for 1.5 s; a partition whose messages came meanwhile would wait for that answer."""

_UNTAKEN_SECONDS: Final = 0.005
"""For this long the client asks a broker for nothing while some of what that brought is not taken. By itself
it takes 0.1 s, for which the topic that is behind would wait, fetch by fetch."""

_POLL_SECONDS: Final = 0.25
_POLL_RECORDS: Final = 2000
_FETCH_BYTES: Final = 4 << 20
_PRODUCER_BATCH_BYTES: Final = 512 << 10
_QUIET_SECONDS: Final = 86_400.0 * 365
_REQUEST_SECONDS: Final = 30.0
_REPEAT_SECONDS: Final = 30.0
_FRAME_BYTES: Final = 4096


class Intake(Protocol):
    """Who takes the messages. Who has `gate` may read."""

    gate: asyncio.Lock

    def wants(self, place: TP) -> bool:
        """Whether messages of a topic's partition may be fetched now; of one at least they may."""

    async def take(self, fetched: Mapping[TP, Sequence[Any]]) -> None:
        """What a fetch brought of each topic's partition, in order; nothing, perhaps."""

    def fail(self, error: BaseException) -> None:
        """Reading has ended with an error."""

    async def assigned_now(self, places: set[TP]) -> None:
        """These are this worker's from now on; nothing is read before this returns."""

    async def revoked_now(self, places: set[TP]) -> None:
        """These are not this worker's any more once this returns."""


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Of the same partition of both topics one worker needs to have both; Faust without tables deals them
        # out round-robin, which parts them as soon as the workers do not divide the partitions.
        consumer._partition_assignment_strategy = [RangePartitionAssignor]  # noqa: SLF001
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def on_start(self) -> None:
        await super().on_start()
        self._ensure_consumer()._fetcher._prefetch_backoff = _UNTAKEN_SECONDS  # noqa: SLF001


class _Consumer(driver.Consumer):
    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    app: JoinerApp

    # Faust's own signal of an assignment comes when messages may have come already
    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.app.intake.assigned_now(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.app.intake.revoked_now(revoked)
        await super().on_partitions_revoked(revoked)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand whole fetches to the app's intake. Faust makes several objects and tasks of each message."""
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once(self.app.intake)
        except (asyncio.CancelledError, ConsumerStoppedError):
            if not self.transport.app.should_stop:
                raise
        except Exception as error:  # noqa: BLE001 - handed on: Faust would go on without reading
            self.app.intake.fail(error)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        wanted = {place for place in active_partitions or () if self.app.intake.wants(place)}
        return await super()._getmany(wanted, timeout) if wanted else {}

    async def _drain_once(self, intake: Intake) -> None:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]
        async with intake.gate:
            records, active = await self._wait_next_records(_POLL_SECONDS)
            await intake.take(
                {
                    TP(place.topic, place.partition): batch
                    for place, batch in (records or {}).items()
                    if active is None or place in active
                }
            )
        await asyncio.sleep(0)


class _Producer(driver.Producer):
    def _settings_extra(self) -> dict[str, Any]:
        # idempotent: retried for ever, in order, without doubles; Faust offers that with transactions only
        return {"acks": "all", "enable_idempotence": True}


class _Transport(driver.Transport):
    Consumer = _Consumer
    Producer = _Producer


class JoinerApp(faust.App):
    """A Faust app that hands its messages to `intake`, which has to be set before it starts."""

    intake: Intake

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> _Transport:
        return _Transport(self.conf.broker_producer, self)


class _NoRepeats(logging.Filter):
    """Lets each message through once in a while: with the broker away, every client says so all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, str(record.msg))
        if record.created < self._next.get(key, 0.0):
            return False
        self._next[key] = record.created + _REPEAT_SECONDS
        return True


def _quieten() -> None:
    logging.getLogger(__name__).setLevel(logging.WARNING)  # Faust's services log under their module's name
    for name in ("aiokafka", "aiokafka.consumer.fetcher", "aiokafka.consumer.group_coordinator"):
        logging.getLogger(name).addFilter(_NoRepeats())


def make_app(config: Config, worker: int) -> JoinerApp:
    """The app of worker `worker`. Call it where its event loop runs."""
    _quieten()
    session = config.kafka.session_timeout_seconds
    servers = ";".join(f"kafka://{server}" for server in config.kafka.servers.split(","))
    return JoinerApp(
        config.streaming.app_id,
        broker=servers,
        broker_client_id=f"{config.streaming.app_id}-{worker}",
        broker_session_timeout=session,
        # a worker that comes back under its number has its partitions at once, and nobody else is disturbed
        consumer_group_instance_id=f"worker-{worker}",
        broker_heartbeat_interval=session / 4,
        broker_rebalance_timeout=2 * session,
        broker_request_timeout=max(_REQUEST_SECONDS, 2 * session),
        broker_commit_interval=_QUIET_SECONDS,  # the job commits
        # a message is acknowledged after its window, which may be long
        broker_commit_livelock_soft_timeout=_QUIET_SECONDS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=_FETCH_BYTES,
        broker_max_poll_records=_POLL_RECORDS,
        broker_check_crcs=False,  # every envelope has a checksum of its own
        producer_max_batch_size=_PRODUCER_BATCH_BYTES,
        producer_max_request_size=MAX_MESSAGE_BYTES - _FRAME_BYTES,
        producer_request_timeout=_REQUEST_SECONDS,
        # unacknowledged messages are not in process: they wait for their window, and are read again
        stream_wait_empty=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        cache="memory://",
        datadir=Path(config.run_dir) / f"joiner-{worker}",
        web_enabled=False,
        worker_redirect_stdouts=False,
    )

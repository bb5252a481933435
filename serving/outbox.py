"""Records on their way to one topic, so that nobody who answers a request ever waits for Kafka.

Knows how to open a producer and to hand it records, not what the records mean. A record is let go of only
when the broker has it; while there is no broker, what waits moves to a spool on disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

from kafka.errors import KafkaError
from prometheus_client import Counter, Gauge

from runtime.errors import PlumbingError
from serving.spool import Spool

_log = logging.getLogger(__name__)

_DROPPED: Final = Counter("headwater_outbox_dropped", "Records given up, for want of room.", ["topic"])
_WAITING: Final = Gauge(
    "headwater_outbox_waiting", "Records in memory that Kafka has not got yet.", ["topic"]
)
_SPOOLED: Final = Gauge("headwater_outbox_spooled_bytes", "Bytes on disk that wait for Kafka.", ["topic"])
_RETRY_SECONDS: Final = 1.0
_FLUSH_SECONDS: Final = 5.0
_LINGER_SECONDS: Final = 0.02
"""How long the first record waits for others: sending is work that a feed's answer should not wait behind."""
_BATCH: Final = 1000
_ATTEMPTS: Final = 20

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")


class Sender(Protocol[R_contra]):
    """What an outbox empties into. All may block, `flush` and `close` for `timeout` seconds at most."""

    def send(self, record: R_contra) -> None:
        """Hand over a record."""

    def flush(self, timeout: float) -> None:
        """Return once the broker has all that was handed over; a PlumbingError says that it has not."""

    def close(self, timeout: float) -> None:
        """Deliver what was sent, and end."""


class Outbox(Generic[R]):
    """A bounded queue with a thread that empties it: at least once, in order.

    Args:
        name: the topic, for logs and metrics.
        open_sender: opens the producer; tried until it works.
        capacity: how much may wait in memory.
        size: how much of the capacity a record takes.
        spool: where records wait while there is no broker, and from one run to the next.
    """

    def __init__(
        self,
        name: str,
        open_sender: Callable[[], Sender[R]],
        capacity: int,
        size: Callable[[R], int] = lambda _: 1,
        spool: Spool[R] | None = None,
    ) -> None:
        self._name = name
        self._open_sender = open_sender
        self._capacity = capacity
        self._size = size
        self._spool = spool
        self._waiting: deque[R] = deque()
        self._held = 0
        self._offered = 0
        self._attempts = 0
        # so many of the oldest records go one by one, to find out which it is that fails
        self._singly = 0
        self._changed = threading.Condition()
        self._sender: Sender[R] | None = None
        self._stopping = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"outbox {name}", daemon=True)

    @property
    def offered(self) -> int:
        """How many records have been taken in."""
        return self._offered

    @property
    def waiting(self) -> int:
        """How many records wait in memory."""
        return len(self._waiting)

    @property
    def spooled_bytes(self) -> int:
        """How much waits on disk."""
        return 0 if self._spool is None else self._spool.bytes

    def start(self) -> None:
        """Begin to empty the queue."""
        self._thread.start()

    def offer(self, record: R) -> bool:
        """Take `record` in without waiting; False where there is no room for it."""
        size = self._size(record)
        with self._changed:
            if self._stopping or self._held + size > self._capacity:
                _DROPPED.labels(self._name).inc()
                return False
            self._held += size
            self._offered += 1
            self._waiting.append(record)
            self._changed.notify()
        return True

    def leave(self, timeout: float) -> None:
        """Take nothing more in; deliver what waits within `timeout` seconds, or spool it. Does not wait."""
        with self._changed:
            self._stopping = True
            self._deadline = time.monotonic() + timeout
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Leave, and wait for it; say what is lost."""
        self.leave(timeout)
        if self._thread.is_alive():
            self._thread.join(timeout + _RETRY_SECONDS)
        if self._waiting:
            _log.error("%s: %d records were not delivered before the stop", self._name, len(self._waiting))

    def _run(self) -> None:
        while not self._finished():
            if self._sender is None and not self._open():
                if self._stopping:
                    break
                self._pause(_RETRY_SECONDS)
            elif batch := self._oldest():
                self._deliver(batch)
            else:
                self._pause(_RETRY_SECONDS)
                self._linger()
            _WAITING.labels(self._name).set(self.waiting)
            _SPOOLED.labels(self._name).set(self.spooled_bytes)
        self._spill()
        self._close()

    def _finished(self) -> bool:
        if not self._stopping:
            return False
        return not (self._waiting or self._spool) or time.monotonic() >= self._deadline

    def _open(self) -> bool:
        """Whether a producer could be opened; if not, what waits goes to disk."""
        try:
            self._sender = self._open_sender()
        except (KafkaError, PlumbingError) as error:
            _log.warning("%s: no producer (%s); trying again", self._name, error)
            self._spill()
        return self._sender is not None

    def _oldest(self) -> list[R]:
        """What is to be delivered next, which stays where it is until it has been."""
        most = 1 if self._singly else _BATCH
        if self._spool:
            return self._spool.oldest(most)
        with self._changed:
            return list(islice(self._waiting, most))

    def _deliver(self, batch: list[R]) -> None:
        assert self._sender is not None  # noqa: S101 - _run opens one first
        try:
            for record in batch:
                self._sender.send(record)
            self._sender.flush(self._within(_FLUSH_SECONDS))
        except PlumbingError as error:
            self._failed(batch, error)
        else:
            self._forget(batch)

    def _failed(self, batch: list[R], error: PlumbingError) -> None:
        """Go on with another producer; what fails time and again, with a broker that answers, is given up."""
        self._attempts += 1
        self._singly = self._singly or len(batch)
        _log.warning("%s: %d records are not delivered (%s)", self._name, len(batch), error)
        self._close()
        if self._attempts >= _ATTEMPTS:
            _DROPPED.labels(self._name).inc(len(batch))
            _log.error("%s: %d records are lost: %s", self._name, len(batch), error)
            self._forget(batch)
        elif self._attempts > 1:
            self._pause(_RETRY_SECONDS)

    def _forget(self, batch: list[R]) -> None:
        """Let go of what was the oldest."""
        self._attempts = 0
        self._singly = max(0, self._singly - len(batch))
        if self._spool:
            self._spool.drop(len(batch))
        else:
            self._let_go(len(batch))

    def _let_go(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._held -= self._size(self._waiting.popleft())

    def _spill(self) -> None:
        """Move what waits in memory to disk, as far as there is room."""
        try:
            while self._spool is not None and self._waiting:
                batch = list(islice(self._waiting, _BATCH))
                if not self._spool.append(batch):
                    return
                self._let_go(len(batch))
        except OSError:
            # a full disk must not take down a replica that still serves
            _log.exception("%s: the disk refuses what waits for Kafka; it stays in memory", self._name)

    def _close(self) -> None:
        sender, self._sender = self._sender, None
        if sender is None:
            return
        try:
            sender.close(self._within(_RETRY_SECONDS))
        except PlumbingError as error:
            _log.warning("%s: %s", self._name, error)

    def _within(self, seconds: float) -> float:
        """So many seconds, or fewer where a stop leaves fewer."""
        return max(0.1, min(self._deadline - time.monotonic(), seconds))

    def _linger(self) -> None:
        with self._changed:
            if self._waiting:
                self._changed.wait_for(lambda: self._stopping, _LINGER_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Wait for the stop, or for records if a producer is there to take them."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or (self._sender is not None and bool(self._waiting)), seconds
            )

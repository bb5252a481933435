"""Records on their way to one topic, so that nobody who answers a request ever waits for Kafka.

Knows how to open a producer and to hand it a record, not what the records mean.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from kafka.errors import KafkaError
from prometheus_client import Counter

from runtime.errors import PlumbingError

_log = logging.getLogger(__name__)

_DROPPED: Final = Counter(
    "headwater_outbox_dropped", "Records given up, Kafka being away for too long.", ["topic"]
)
_RETRY_SECONDS: Final = 1.0

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")


class Sender(Protocol[R_contra]):
    """What an outbox empties into. All three may block; `flush` and `close` for `timeout` seconds at most."""

    def send(self, record: R_contra) -> None:
        """Hand over a record."""

    def close(self, timeout: float) -> None:
        """Deliver what was sent, and end."""


class Outbox(Generic[R]):
    """A bounded queue with a thread that empties it.

    Args:
        name: the topic, for logs and metrics.
        open_sender: opens the producer; tried until it works.
        capacity: how much may wait.
        size: how much of the capacity a record takes.
    """

    def __init__(
        self,
        name: str,
        open_sender: Callable[[], Sender[R]],
        capacity: int,
        size: Callable[[R], int] = lambda _: 1,
    ) -> None:
        self._name = name
        self._open_sender = open_sender
        self._capacity = capacity
        self._size = size
        self._waiting: deque[R] = deque()
        self._held = 0
        self._offered = 0
        self._changed = threading.Condition()
        self._is_open = self._stopping = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"outbox {name}", daemon=True)

    @property
    def offered(self) -> int:
        """How many records have been taken in."""
        return self._offered

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

    def stop(self, timeout: float) -> None:
        """Take nothing more in, deliver what waits within `timeout` seconds, and say what was lost."""
        with self._changed:
            self._stopping = True
            self._deadline = time.monotonic() + timeout
            self._changed.notify()
            in_vain = not self._is_open and not self._waiting
        if self._thread.is_alive() and not in_vain:
            self._thread.join(timeout)
        if self._waiting:
            _log.error("%s: %d records were not delivered before the stop", self._name, len(self._waiting))

    def _run(self) -> None:
        sender = self._opened()
        if sender is None:
            return
        self._is_open = True
        while (record := self._next()) is not None:
            try:
                sender.send(record)
            except PlumbingError as error:
                _DROPPED.labels(self._name).inc()
                _log.error("%s: a record is lost: %s", self._name, error)
        try:
            sender.close(max(0.1, self._deadline - time.monotonic()))
        except PlumbingError as error:
            _log.error("%s: %s", self._name, error)

    def _opened(self) -> Sender[R] | None:
        """The producer, once it can be opened; None if the stop comes first."""
        while True:
            try:
                return self._open_sender()
            except (KafkaError, PlumbingError) as error:
                _log.warning("%s: no producer yet (%s); trying again", self._name, error)
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, _RETRY_SECONDS):
                    return None

    def _next(self) -> R | None:
        """The oldest record, waited for; None once the queue is empty for good."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping)
            if not self._waiting:
                return None
            record = self._waiting.popleft()
            self._held -= self._size(record)
            return record

"""A connection to one shard: deadlines, retries while it cannot be reached, and the one mapping of errors.

Knows nothing of what is asked. Everything that the client asks may be asked again: pushes are idempotent.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyarrow import flight

from parameter_server.errors import InvalidRequest, ShardError, ShardUnavailable
from parameter_server.security import Credentials
from schema.config import ShardConfig

_log = logging.getLogger(__name__)

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0
_OPTIONS: Final[list[tuple[str, int | str]]] = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]
_TRANSIENT: Final = (
    flight.FlightUnavailableError,
    flight.FlightTimedOutError,
    flight.FlightCancelledError,
    flight.FlightInternalError,
    OSError,  # what pyarrow raises for a stream that broke off
)
_PREAMBLE: Final = "with message: "
_POSTSCRIPTS: Final = (". Detail: Python exception", ". gRPC client debug context")

T = TypeVar("T")
Ask = Callable[[Any, flight.FlightCallOptions], T]
"""One attempt: takes the Flight client and the options that carry the deadline."""


class ShardConnection:
    """Calls one shard.

    Args:
        shard: its address.
        request_seconds: how long one attempt may take.
        retry_seconds: how long to go on trying while the shard cannot be reached or is busy.
        credentials: what to show it.
    """

    def __init__(
        self, shard: ShardConfig, request_seconds: float, retry_seconds: float, credentials: Credentials
    ) -> None:
        self._name = f"shard at {shard.host}:{shard.port}"
        self._client = flight.FlightClient(
            f"{credentials.scheme}://{shard.host}:{shard.port}",
            generic_options=_OPTIONS,
            **credentials.client_options(),
        )
        self._headers = credentials.headers()
        self._options = self._within(request_seconds)
        self._retry_seconds = retry_seconds
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the connection; calls that are waiting to try again give up."""
        self._closed.set()
        self._client.close()

    def call(
        self,
        ask: Ask[T],
        *,
        seconds: float | None = None,
        retry_seconds: float | None = None,
    ) -> T:
        """What `ask` returns, asked again while the shard cannot be reached or is busy.

        Args:
            ask: one attempt, with the options that carry its deadline.
            seconds: the deadline of an attempt, if not request_seconds.
            retry_seconds: how long to go on trying, if not the connection's own retry_seconds.

        Raises:
            InvalidRequest: the shard refused the request.
            ShardError: the shard failed.
            ShardUnavailable: it could not be reached for retry_seconds.
        """
        options = self._options if seconds is None else self._within(seconds)
        give_up = time.monotonic() + (self._retry_seconds if retry_seconds is None else retry_seconds)
        delay = _FIRST_DELAY
        while True:
            try:
                return self._attempt(ask, options)
            except _TRANSIENT as error:
                pause = delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
                if time.monotonic() + pause > give_up or self._closed.wait(pause):
                    raise ShardUnavailable(f"{self._name}: {_plain(error)}") from error
                if delay == _FIRST_DELAY:
                    _log.warning("%s cannot answer, trying again: %s", self._name, _plain(error))
            delay = min(2 * delay, _LONGEST_DELAY)

    def _within(self, seconds: float) -> flight.FlightCallOptions:
        return flight.FlightCallOptions(timeout=seconds, headers=self._headers)

    def _attempt(
        self,
        ask: Ask[T],
        options: flight.FlightCallOptions,
    ) -> T:
        try:
            return ask(self._client, options)
        except _TRANSIENT:
            raise
        except StopIteration as error:
            raise ShardError(f"{self._name}: ended without a reply") from error
        except pa.ArrowInvalid as error:
            raise InvalidRequest(f"{self._name}: {_plain(error)}") from error
        except (flight.FlightError, pa.ArrowException) as error:
            raise ShardError(f"{self._name}: {_plain(error)}") from error


def _plain(error: Exception) -> str:
    """The message of a Flight error without what the transport wraps around it."""
    text = str(error).split(_PREAMBLE, 1)[-1]
    for postscript in _POSTSCRIPTS:
        text = text.split(postscript, 1)[0]
    return text

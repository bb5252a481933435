"""Where closed requests are found again by later actions and by repeated feature logs.

The interface, and a version in memory. Knows no disk.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

import msgspec

from schema.records import FeatureLog
from streaming.request import State

pack: Final = msgspec.msgpack.Encoder().encode
"""A feature log as bytes, and (below) back."""

unpack: Final = msgspec.msgpack.Decoder(FeatureLog).decode


class LateStoreError(Exception):
    """The late store cannot be read or written. It is made anew; the log holds all that it held."""


class LateStore(Protocol):
    """Closed requests by id. Writes count once `flush` returns; a reader sees its own writes at once."""

    def state(self, request_id: str) -> State | None:
        """What was emitted of a request, None if it is not known."""

    def log(self, request_id: str) -> bytes | None:
        """Its feature log, packed, None if it is not kept."""

    def put_state(self, request_id: str, state: State) -> None:
        """Keep what was emitted of a request."""

    def put_log(self, request_id: str, packed: bytes) -> None:
        """Keep a feature log."""

    def flush(self) -> None:
        """Write what was put."""


class MemoryStore:
    """The last `limit` requests put, for telling repeated records from new ones where nothing is on disk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._states: OrderedDict[str, State] = OrderedDict()
        self._logs: dict[str, bytes] = {}

    def state(self, request_id: str) -> State | None:
        """As the interface."""
        return self._states.get(request_id)

    def log(self, request_id: str) -> bytes | None:
        """As the interface."""
        return self._logs.get(request_id)

    def put_state(self, request_id: str, state: State) -> None:
        """As the interface."""
        self._states[request_id] = state
        if len(self._states) > self._limit:
            oldest, _ = self._states.popitem(last=False)
            self._logs.pop(oldest, None)

    def put_log(self, request_id: str, packed: bytes) -> None:
        """As the interface."""
        self._logs[request_id] = packed

    def flush(self) -> None:
        """As the interface."""

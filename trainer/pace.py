"""Things that happen every so often, and how fast things happen. Pure, with an injected clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Every:
    """Is due once in `seconds`, the first time after `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = clock()

    def due(self) -> bool:
        """Whether it is due; the next time counts from a True."""
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True

    def restart(self) -> None:
        """Count from now."""
        self._last = self._clock()


class Rate:
    """Events a second over the last `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._start = clock()
        self._events: deque[tuple[float, int]] = deque()

    def add(self, count: int) -> None:
        """`count` events happen now."""
        self._events.append((self._clock(), count))
        self._trim()

    def value(self) -> float:
        """Events a second."""
        self._trim()
        span = min(self._seconds, self._clock() - self._start)
        return sum(count for _, count in self._events) / span if span > 0 else 0.0

    def _trim(self) -> None:
        while self._events and self._events[0][0] <= self._clock() - self._seconds:
            self._events.popleft()

"""When to send an event of the past: `speed` times as fast as it happened, by an injected clock."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Pacer:
    """Holds each event back until its turn.

    Args:
        speed: how many seconds of the log pass in one, above 0; None for as fast as possible.
        clock: seconds, never going back.
        sleep: waits for some seconds.
    """

    def __init__(
        self,
        speed: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._speed = speed
        self._clock = clock
        self._sleep = sleep
        self._start: tuple[int, float] | None = None

    def wait(self, event_time: int) -> None:
        """Return when an event of `event_time` (ms) is due; the first is due at once."""
        if self._speed is None:
            return
        if self._start is None:
            self._start = event_time, self._clock()
        first, began = self._start
        due = began + (event_time - first) / 1000 / self._speed
        early = due - self._clock()
        if early > 0:
            self._sleep(early)


def parse_speed(text: str) -> float | None:
    """None for "max", else the number.

    Raises:
        ValueError: it is neither, or not above 0.
    """
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ValueError(f"{text!r}; legal is max, or a number above 0 (times real time)")
    return speed

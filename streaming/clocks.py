"""The two clocks of the running job."""

from __future__ import annotations

import time


def steady_ms() -> int:
    """A clock that only moves on, ms."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000

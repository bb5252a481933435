"""When the next round is due, and whether rounds are taken at all. Pure: times are handed in, in seconds."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Final

from schema.config import SyncConfig

IDLE_SECONDS: Final = 1.0
"""How long to wait, while no rounds are taken, before looking again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may change: whether rounds are taken, and how often those of rows and of weights."""

    paused: bool
    sparse_seconds: float
    dense_seconds: float


@dataclass(frozen=True, slots=True)
class Change:
    """Settings to put in force; None leaves one as it is."""

    paused: bool | None = None
    sparse_seconds: float | None = None
    dense_seconds: float | None = None

    def of(self, settings: Settings) -> Settings:
        """What `settings` are after the change."""
        return Settings(
            settings.paused if self.paused is None else self.paused,
            self.sparse_seconds or settings.sparse_seconds,
            self.dense_seconds or settings.dense_seconds,
        )


class Schedule:
    """The rounds that are due by `config`. Safe to use from any thread.

    Args:
        config: how often.
        freeze_after: seconds after the first trained model from which on no more rounds are due; None: never.
        now: where the clock stands.
    """

    def __init__(self, config: SyncConfig, freeze_after: float | None, now: float) -> None:
        self._lock = threading.Lock()
        self._settings = Settings(
            paused=False, sparse_seconds=config.sparse_seconds, dense_seconds=config.dense_seconds
        )
        self._freeze_after = freeze_after
        self._freeze_at: float | None = None
        self._sparse_due = self._dense_due = now

    @property
    def settings(self) -> Settings:
        """What is in force."""
        return self._settings

    def change(self, now: float, change: Change) -> Settings:
        """Put new settings in force. A round is due at once, unless paused."""
        with self._lock:
            self._settings = change.of(self._settings)
            self._sparse_due = self._dense_due = now
            return self._settings

    def due(self, now: float) -> tuple[bool, bool]:
        """Whether a round of rows is due, and one of weights; what is due is planned again."""
        with self._lock:
            if self._freeze_at is not None and now >= self._freeze_at:
                self._settings, self._freeze_at = replace(self._settings, paused=True), None
            if self._settings.paused:
                return False, False
            sparse, dense = now >= self._sparse_due, now >= self._dense_due
            if sparse:
                self._sparse_due = now + self._settings.sparse_seconds
            if dense:
                self._dense_due = now + self._settings.dense_seconds
            return sparse, dense

    def retry(self, at: float, *, sparse: bool, dense: bool) -> None:
        """Plan what failed for `at`."""
        with self._lock:
            self._sparse_due = at if sparse else self._sparse_due
            self._dense_due = at if dense else self._dense_due

    def trained(self, now: float) -> None:
        """Note that a trained model is served: the first one sets the time to freeze, if there is one."""
        with self._lock:
            if self._freeze_after is not None:
                self._freeze_at, self._freeze_after = now + self._freeze_after, None

    def wait(self, now: float) -> float:
        """Seconds until something is due."""
        with self._lock:
            if self._settings.paused:
                return IDLE_SECONDS
            times = [self._sparse_due, self._dense_due]
            if self._freeze_at is not None:
                times.append(self._freeze_at)
            return max(0.0, min(times) - now)

"""A lock that many readers share and one writer has alone; a waiting writer goes before new readers.

Readers do not nest: a thread that reads must not ask to read again, or a waiting writer would stop both.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager


class ReadWriteLock:
    """Shared for `reading`, exclusive for `writing`."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._readers = 0
        self._writing = False
        self._waiting = 0
        self._shared = _Reading(self)
        self._alone = _Writing(self)

    def reading(self) -> AbstractContextManager[None]:
        """Hold the lock together with other readers."""
        return self._shared

    def writing(self) -> AbstractContextManager[None]:
        """Hold the lock alone."""
        return self._alone

    def _start_reading(self) -> None:
        with self._mutex:
            while self._writing or self._waiting:
                self._changed.wait()
            self._readers += 1

    def _end_reading(self) -> None:
        with self._mutex:
            self._readers -= 1
            if self._waiting and not self._readers:
                self._changed.notify_all()

    def _start_writing(self) -> None:
        with self._mutex:
            self._waiting += 1
            try:
                while self._writing or self._readers:
                    self._changed.wait()
                self._writing = True
            finally:
                self._waiting -= 1
                if not self._writing:  # it was interrupted, and readers need not wait for it
                    self._changed.notify_all()

    def _end_writing(self) -> None:
        with self._mutex:
            self._writing = False
            self._changed.notify_all()


class _Reading:
    """What `with` takes; one for all readers, since all that they need to remember is the lock's."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock._start_reading()  # noqa: SLF001 - two halves of one class

    def __exit__(self, *_: object) -> None:
        self._lock._end_reading()  # noqa: SLF001


class _Writing:
    """As _Reading, for writers."""

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        self._lock._start_writing()  # noqa: SLF001

    def __exit__(self, *_: object) -> None:
        self._lock._end_writing()  # noqa: SLF001

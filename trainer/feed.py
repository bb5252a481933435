"""One stream of entries out of the partitions of the samples topic, oldest event first.

Partitions are merged by event time: a trainer with a backlog reads each far ahead of the others, and would
else learn from one user's tomorrow before another's today. Knows no Kafka: a source hands it chunks.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from trainer.entries import Entry, Position, Run
from trainer.errors import RecoveryError

_log = logging.getLogger(__name__)

_BUFFERED_LIMIT: Final = 100_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries in the order of their partitions, and the partitions that have more which was not read yet."""

    entries: tuple[Entry, ...]
    behind: frozenset[int]


class Source(Protocol):
    """Where chunks come from."""

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin to read at `positions`, which name every partition."""

    def get(self, timeout: float) -> Chunk | None:
        """The next chunk, or None if there is none within `timeout` seconds."""

    def commit(self, positions: Mapping[int, Position]) -> None:
        """Let others see how far training has come."""


class Feed:
    """Hands out the entries of a source, one at a time.

    Args:
        source: where they come from.
        partitions: the numbers of all partitions.
        clock: seconds.
    """

    def __init__(
        self, source: Source, partitions: Iterable[int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._clock = clock
        self._buffers: dict[int, deque[Entry]] = {p: deque() for p in partitions}
        self._behind = frozenset(self._buffers)
        self._expected: dict[int, Position] = {}

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin at `positions`; a partition without one begins at its earliest message."""
        self._expected = {p: positions.get(p, Position(0)) for p in self._buffers}
        self._source.start(self._expected)

    def commit(self, positions: Mapping[int, Position]) -> None:
        """As `Source.commit`."""
        self._source.commit(positions)

    def next(self, timeout: float) -> Entry | None:
        """The next entry, or None if none comes within `timeout` seconds."""
        deadline = self._clock() + timeout
        while self._waits_for_more() and self._fetch(deadline - self._clock()):
            pass
        filled = [buffer for buffer in self._buffers.values() if buffer]
        if not filled:
            return None
        oldest = (
            filled[0] if len(filled) == 1 else min(filled, key=lambda b: (_event_time(b[0]), b[0].partition))
        )
        return self._hand_out(oldest)

    def take(self, run: Run, timeout: float) -> list[Entry]:
        """The entries of `run`, which starts where its partition stands.

        Raises:
            RecoveryError: they cannot be had within `timeout` seconds.
        """
        deadline = self._clock() + timeout
        buffer = self._buffers[run.partition]
        taken: list[Entry] = []
        while self._expected[run.partition] < run.end:
            if buffer:
                taken.append(self._hand_out(buffer))
            elif not self._fetch(deadline - self._clock()) and self._clock() >= deadline:
                raise RecoveryError(
                    f"partition {run.partition}: the samples up to {run.end} cannot be read again within "
                    f"{timeout:g} s; they reach to {self._expected[run.partition]}"
                )
        return taken

    def _waits_for_more(self) -> bool:
        buffers = self._buffers
        if all(map(buffers.__getitem__, self._behind)):
            return not any(buffers.values())
        return sum(map(len, buffers.values())) < _BUFFERED_LIMIT

    def _fetch(self, timeout: float) -> bool:
        chunk = self._source.get(max(0.0, timeout))
        if chunk is None:
            return False
        self._behind = chunk.behind
        for entry in chunk.entries:
            if entry.position >= self._expected[entry.partition]:
                self._buffers[entry.partition].append(entry)
        return True

    def _hand_out(self, buffer: deque[Entry]) -> Entry:
        entry = buffer.popleft()
        expected = self._expected[entry.partition]
        if entry.position != expected:
            _log.warning(
                "partition %d: samples from %s to %s are gone", entry.partition, expected, entry.position
            )
        self._expected[entry.partition] = entry.following
        return entry


def _event_time(entry: Entry) -> int:
    return 0 if entry.block is None else entry.block.event_time

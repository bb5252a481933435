"""One stream of entries out of the partitions of the samples topic, oldest event first.

Partitions are merged by event time: a trainer with a backlog reads each far ahead of the others, and would
else learn from one user's tomorrow before another's today. The order depends on what lies in the partitions
alone: while one has more that was not read yet, the others wait. Knows no Kafka: a source hands it chunks.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from trainer.entries import Entry, Position, Run
from trainer.errors import RecoveryError

_log = logging.getLogger(__name__)

_BUFFERED_LIMIT: Final = 10_000
"""Blocks of a partition beyond which it is not read further."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries in the order of their partitions, and the partitions that have more which was not read yet."""

    entries: tuple[Entry, ...]
    behind: frozenset[int]


class Source(Protocol):
    """Where chunks come from."""

    @property
    def history(self) -> bool:
        """Whether what it has was never in the samples topic, so that its positions are its own."""

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin to read at `positions`, which name every partition."""

    def get(self, timeout: float) -> Chunk | None:
        """The next chunk, or None if there is none within `timeout` seconds."""

    def hold(self, partitions: frozenset[int]) -> None:
        """Read no further in `partitions` until they are no longer named."""

    def commit(self, positions: Mapping[int, Position]) -> None:
        """Let others see how far training has come."""


class Feed:
    """Hands out the entries of a source, one after the other.

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
        self._held: frozenset[int] = frozenset()

    @property
    def history(self) -> bool:
        """Whether the entries come from a history that was never in the samples topic."""
        return self._source.history

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin at `positions`; a partition without one begins at its earliest message."""
        self._expected = {p: positions.get(p, Position(0)) for p in self._buffers}
        self._source.start(self._expected)

    def commit(self, positions: Mapping[int, Position]) -> None:
        """As `Source.commit`."""
        self._source.commit(positions)

    def next(self, timeout: float, rows: int = 1) -> Entry | None:
        """The next entry, or None if none comes within `timeout` seconds.

        It has as many blocks as follow one another, none of them behind the one by which there are `rows`.
        """
        deadline = self._clock() + timeout
        while self._waits_for_more():
            left = deadline - self._clock()
            if not self._fetch(left) or (left <= 0 and self._waits_for_more()):
                return None
        filled = [buffer for buffer in self._buffers.values() if buffer]
        oldest = min(filled, key=lambda b: (_event_time(b[0]), b[0].partition))
        count = _leading(oldest[0], [b[0] for b in filled if b is not oldest], rows)
        return self._hand_out(oldest, count)

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
                taken.append(self._hand_out(buffer, _before(buffer[0], run.end)))
            elif not self._fetch(deadline - self._clock()) and self._clock() >= deadline:
                raise RecoveryError(
                    f"partition {run.partition}: the samples up to {run.end} cannot be read again within "
                    f"{timeout:g} s; they reach to {self._expected[run.partition]}"
                )
        return taken

    @property
    def caught_up(self) -> bool:
        """Whether all that lay in the partitions, when they were last read, has been handed out."""
        return not self._behind and not any(self._buffers.values())

    def _waits_for_more(self) -> bool:
        buffers = self._buffers
        return not all(map(buffers.__getitem__, self._behind)) or not any(buffers.values())

    def _fetch(self, timeout: float) -> bool:
        full = frozenset(p for p, buffer in self._buffers.items() if sum(map(len, buffer)) > _BUFFERED_LIMIT)
        if full != self._held:
            self._held = full
            self._source.hold(full)
        chunk = self._source.get(max(0.0, timeout))
        if chunk is None:
            return False
        self._behind = chunk.behind
        for entry in chunk.entries:
            expected = self._expected[entry.partition]
            before = _before(entry, expected) if entry.position < expected else 0
            if 0 < before < len(entry):
                entry = entry.split(before)[1]  # noqa: PLW2901 - what is left of it
            if entry.position >= expected:
                self._buffers[entry.partition].append(entry)
        return True

    def _hand_out(self, buffer: deque[Entry], count: int) -> Entry:
        """The first `count` blocks, or the dead letter, of the first entry."""
        entry = buffer.popleft()
        if count < len(entry):
            entry, rest = entry.split(count)
            buffer.appendleft(rest)
        expected = self._expected[entry.partition]
        if entry.position != expected:
            _log.warning(
                "partition %d: samples from %s to %s are gone", entry.partition, expected, entry.position
            )
        self._expected[entry.partition] = entry.following
        return entry


def _event_time(entry: Entry) -> int:
    return 0 if entry.blocks is None else entry.blocks.first_event_time


def _before(entry: Entry, end: Position) -> int:
    """How many blocks of `entry` lie before `end`, which is behind its first."""
    if entry.blocks is None or len(entry) == 1 or entry.following <= end:
        return len(entry)
    return entry.blocks.before(*end)


def _leading(entry: Entry, others: Sequence[Entry], rows: int) -> int:
    """How many blocks of `entry`, whose first is the oldest, come before any of `others`; see `Feed.next`."""
    if entry.blocks is None or len(entry) == 1:
        return 1
    count = entry.blocks.reaching(rows)
    for other in others:
        count = min(count, entry.blocks.older(_event_time(other), ties=entry.partition < other.partition))
    return count

"""In-order acknowledgement: which messages of a topic-partition are done with, counted from the oldest.

Knows nothing of Kafka: offsets are integers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence


def _never(_offset: int) -> bool:
    return False


class OffsetTracker:
    """The messages of one topic-partition that were read and are not yet acknowledged.

    A message is resolved when all its records are. `low` never passes one that is not: what is committed is
    then always the oldest message that still matters.
    """

    __slots__ = ("_left", "_order", "_past", "_spans")

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._left: dict[int, int] = {}
        self._spans: dict[int, int] = {}
        self._past = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def low(self) -> int:
        """The lowest offset that was not handed back; with none outstanding, the next one to come."""
        return self._order[0] if self._order else self._past

    @property
    def end(self) -> int:
        """The offset after the last message added, 0 before the first."""
        return self._past

    def add(self, offset: int, records: int) -> None:
        """A message of `records` records (none: it is resolved already), read after all those before it.

        Raises:
            ValueError: `offset` does not lie above every offset added so far.
        """
        if offset < self._past:
            raise ValueError(f"offset: {offset}; legal is {self._past} or more, messages come in order")
        self._order.append(offset)
        self._left[offset] = records
        self._past = offset + 1

    def resolve(self, offset: int, records: int = 1) -> None:
        """So many records of the message at `offset` are done with."""
        rest = self._left[offset] - records
        if rest < 0:
            raise AssertionError(f"offset {offset} was resolved more often than it has records")
        self._left[offset] = rest

    def resolve_all(self, offsets: Sequence[int]) -> None:
        """As `resolve` for each."""
        left = self._left
        for offset in offsets:
            rest = left[offset] - 1
            if rest < 0:
                raise AssertionError(f"offset {offset} was resolved more often than it has records")
            left[offset] = rest

    def join(self, first: int, last: int) -> None:
        """Acknowledge the messages `first` to `last` together or not at all.

        A re-reader that found the second of two duplicates but not the first would take it for new. Without
        effect where `first` was handed back already.
        """
        if first in self._left and last > first:
            self._spans[first] = max(last, self._spans.get(first, 0))

    def owe(self, offset: int) -> None:
        """The message at `offset`, which has not been taken, has one more record to be resolved."""
        self._left[offset] += 1

    def take_resolved(self, held: Callable[[int], bool] = _never) -> list[int]:
        """The offsets that may be acknowledged now, in order; each comes back once, and `low` is past it.

        Args:
            held: whether a message waits for something else, too.
        """
        taken: list[int] = []
        while run := self._resolved_run(held):
            for _ in range(run):
                offset = self._order.popleft()
                del self._left[offset]
                self._spans.pop(offset, None)
                taken.append(offset)
        return taken

    def _resolved_run(self, held: Callable[[int], bool]) -> int:
        """How many messages at the head are resolved and may not be parted, 0 if they have to wait."""
        if not self._order or self._left[self._order[0]] or held(self._order[0]):
            return 0
        end = self._spans.get(self._order[0]) if self._spans else None
        if end is None:
            return 1
        run = 0
        for offset in self._order:
            if offset > end:
                break
            if self._left[offset] or held(offset):
                return 0
            end = max(end, self._spans.get(offset, 0))
            run += 1
        return run

"""Messages of one partition that were fetched and not joined yet: the topic that is behind goes first.

After an outage the actions, which are small, would be read far ahead of their feature logs, and each would
wait, in memory or on disk, for the log that makes it count. So they begin after these, and stop where these
have come to. Pure; knows no Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from streaming.watermark import Side, Watermark

PATIENCE_MS: Final = 1000
"""For how long a topic that is ahead waits for a fetch of the other one."""

_CHUNK: Final = 32
_NOWHERE: Final = -1
"""Before every event time."""


class Inlet:
    """Puts the messages of both topics into the order of event time, as far as what was fetched allows.

    Args:
        clock: how far the partition has come in each topic.
        lead: by how much a topic may be ahead of the other before it waits, ms.
    """

    def __init__(self, clock: Watermark, lead: int) -> None:
        self._clock = clock
        self._lead = lead
        self._messages: tuple[list[Any], list[Any]] = ([], [])
        self._since: int | None = None
        self._taken = (_NOWHERE, 1)

    def __len__(self) -> int:
        return sum(map(len, self._messages))

    def wants(self, side: Side) -> bool:
        """Whether more of a topic may be fetched."""
        return not self._messages[side]

    def add(self, side: Side, messages: Sequence[Any]) -> None:
        """Messages were fetched, after all those before them."""
        self._messages[side].extend(messages)
        self._since = None

    def take(self, more: Callable[[Side], bool], now: int) -> tuple[Side, Sequence[Any]] | None:
        """The messages to join next, None if there are none, or if they had better wait for a fetch.

        Args:
            more: whether Kafka may have messages of a topic that were not fetched yet.
            now: a steady clock, ms.
        """
        full = [side for side in Side if self._messages[side]]
        if not full or (len(full) == 1 and self._waits(full[0], more, now)):
            return None
        side = min(full, key=self._reached)
        awaited = side is Side.ACTIONS and (len(full) > 1 or more(Side.FEATURES))
        count = self._up_to_the_logs() if awaited else _CHUNK
        chunk = self._messages[side][:count]
        del self._messages[side][:count]
        if side is Side.ACTIONS:
            self._taken = (self._reached(side), len(chunk))
        return side, chunk

    def _up_to_the_logs(self) -> int:
        """How many messages of actions come before the last feature log, going by those before them."""
        reached, (before, count) = self._reached(Side.ACTIONS), self._taken
        pace = 0.0 if before == _NOWHERE else (reached - before) / count
        room = self._reached(Side.FEATURES) - reached
        if room <= 0:
            return 1
        return _CHUNK if room >= _CHUNK * pace else max(1, int(room / pace))

    def _waits(self, side: Side, more: Callable[[Side], bool], now: int) -> bool:
        """Whether the only topic that has messages is ahead, and the other one is to be expected."""
        other = Side(1 - side)
        begins = side is Side.ACTIONS and self._clock.reached(other) is None
        ahead = begins or self._reached(side) > self._reached(other) + self._lead
        if not (ahead and more(other)):
            return False
        if self._since is None:
            self._since = now
        return now - self._since < PATIENCE_MS

    def _reached(self, side: Side) -> int:
        reached = self._clock.reached(side)
        return _NOWHERE if reached is None else reached

"""Event time of one partition: how far both its topics have come. Pure; the time of arrival is passed in.

Knows event times and arrivals, no records and no Kafka.
"""

from __future__ import annotations

import enum
from typing import Final

EVIDENCE_MS: Final = 1000
"""How far before word of a drained topic its silence is taken for granted. Word that comes further apart (the
broker was away, or this process was stopped) says nothing of the time between."""


class Side(enum.IntEnum):
    """The two topics of the join."""

    FEATURES = 0
    ACTIONS = 1


class _Topic:
    """One topic's event time, and what is known of its silence. Arrivals are in ms of a steady clock."""

    __slots__ = ("calm_since", "drained_at", "last_arrival", "max_event")

    def __init__(self, now: int) -> None:
        self.max_event: int | None = None
        self.last_arrival = now
        self.drained_at: int | None = None
        self.calm_since = now

    def silent_for(self) -> int:
        """For how long there was nothing to read, to the best of our knowledge, in ms."""
        return -1 if self.drained_at is None else self.drained_at - self.calm_since


class Watermark:
    """The event time before which nothing more is expected in a partition.

    It is the smaller of both topics' maximum event times, less the allowed disorder. A topic that was silent
    for `idle` stops holding it back; when both are, event time goes on with the clock from that moment. It
    never goes back.

    Args:
        disorder: by how much events may come out of order, ms.
        idle: after how long a silent topic counts as idle, ms.
        now: the steady clock, ms.
    """

    __slots__ = ("_disorder", "_idle", "_topics", "_value")

    def __init__(self, disorder: int, idle: int, now: int) -> None:
        self._disorder: Final = disorder
        self._idle: Final = idle
        self._topics = (_Topic(now), _Topic(now))
        self._value: int | None = None

    @property
    def value(self) -> int | None:
        """Unix milliseconds, or None as long as nothing is known."""
        return self._value

    def reached(self, side: Side) -> int | None:
        """The highest event time of a topic, None before the first."""
        return self._topics[side].max_event

    def observe(self, side: Side, event_time: int | None, now: int) -> None:
        """A message came. `event_time` is the highest of its records, None if it had none worth trusting."""
        topic = self._topics[side]
        topic.last_arrival = now
        topic.drained_at = None
        if event_time is not None and (topic.max_event is None or event_time > topic.max_event):
            topic.max_event = event_time
        self._advance()

    def drained(self, side: Side, at: int) -> None:
        """At time `at` every message of the topic had been read. Word of it may come later."""
        topic = self._topics[side]
        if at < topic.last_arrival:
            return
        if topic.drained_at is None or at - topic.drained_at > EVIDENCE_MS:
            topic.calm_since = max(topic.last_arrival, at - EVIDENCE_MS)
        topic.drained_at = at
        self._advance()

    def quiet_since(self, side: Side) -> int:
        """When the topic's last message came, on the steady clock."""
        return self._topics[side].last_arrival

    def _advance(self) -> None:
        candidate = self._candidate()
        if candidate is not None and (self._value is None or candidate > self._value):
            self._value = candidate

    def _candidate(self) -> int | None:
        awake = [t.max_event for t in self._topics if t.silent_for() < self._idle]
        if awake:
            known = [t for t in awake if t is not None]
            return min(known) - self._disorder if len(known) == len(awake) else None
        times = [t.max_event for t in self._topics if t.max_event is not None]
        elapsed = min(t.silent_for() for t in self._topics) - self._idle
        return max(times) - self._disorder + elapsed if times else None

"""One partition of the join: messages in; sample blocks, dead letters and acknowledgements out. Pure.

Ties the join, its watermark and the trackers of both topics together. Knows neither Kafka nor Faust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from schema.errors import InvalidMessage
from streaming.counts import Counts
from streaming.heads import Head, Seen, unpack
from streaming.join import Join
from streaming.late import LateStore
from streaming.ledger import Ledger
from streaming.letters import LetterBox
from streaming.logs import LogReader
from streaming.outbox import Outbox, Stamp
from streaming.parcels import Blocks, Parcel, pack_letters
from streaming.recall import Recalled
from streaming.request import Request
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.watermark import Side, Watermark

FUTURE_MS: Final = 3_600_000
"""How far past the moment when Kafka had it a record's event time may lie."""

_NONE: Final = -1


class Message(NamedTuple):
    """A message of either topic. `timestamp`: when Kafka had it, Unix ms."""

    offset: int
    timestamp: int
    value: bytes | None


class Timing(NamedTuple):
    """The allowed disorder and the silence after which a topic is idle, ms."""

    disorder: int
    idle: int


class Partition:
    """The join of partition `number`, from the offsets where it was taken over.

    Args:
        number: the partition, of both topics.
        topics: the names of the two topics, by side.
        rules: what makes a label.
        timing: disorder and idleness.
        sampler: which rows without a positive label stay.
        store: where closed requests are kept.
        counts: where to count.
        now: a steady clock, ms; as for the methods.
    """

    def __init__(
        self,
        number: int,
        topics: tuple[str, str],
        rules: Rules,
        timing: Timing,
        *,
        sampler: Sampler,
        store: LateStore,
        counts: Counts,
        now: int,
    ) -> None:
        self.number = number
        self.clock = Watermark(timing.disorder, timing.idle, now)
        self.join = Join(number, rules, sampler, store, counts)
        self._sampler = sampler
        self._reader = LogReader()
        self._disorder = timing.disorder
        self._word: int | None = None
        self._counts = counts
        self._ledger = Ledger()
        self._outbox = Outbox(
            number, rules.tasks, sampler=sampler, register=self.join.requests.register, counts=counts
        )
        self._letters = LetterBox(number, topics, counts)

    @property
    def unacked(self) -> int:
        """How many messages were read and not acknowledged."""
        return len(self._ledger)

    @property
    def outbox(self) -> int:
        """How many blocks and dead letters wait to be taken by `parcels`."""
        return len(self._outbox) + len(self._letters)

    def next_offset(self, side: Side) -> int:
        """The offset after the last message that came, 0 before the first."""
        return self._ledger.end(side)

    def receive(self, side: Side, message: Message, now: int) -> None:
        """A message came, after all those before it in its topic."""
        newest = self._receive_logs(message) if side is Side.FEATURES else self._receive_actions(message)
        # a producer whose clock is ahead must not close the windows of all others
        event_time = None if newest == _NONE else min(newest, message.timestamp + self._disorder)
        if self._word is not None:
            event_time, self._word = max(self._word, event_time or self._word), None
        self.clock.observe(side, event_time, now)
        self.advance(message.timestamp)

    def advance(self, completed_at: int) -> None:
        """Close what the clock has passed. `completed_at`: when Kafka had what moved it on, Unix ms."""
        if self.clock.value is not None:
            self.join.advance(self.clock.value, (self._ledger.unsent, completed_at))
        self._collect(completed_at)

    def recalled(self, past: Recalled, completed_at: int) -> None:
        """What earlier owners emitted is in the store now, as `Join.recalled`."""
        for one in past.scored:
            self._sampler.note(one)
        for first, offset in self.join.recalled(past.closed_below):
            self._ledger.doubled(first, offset)
        self._collect(completed_at)

    def caught_up(self, found: Sequence[str], completed_at: int) -> None:
        """The store has every closed request, as `Join.caught_up`."""
        self.join.caught_up(found)
        self._collect(completed_at)

    def go_on(self, completed_at: int) -> None:
        """As `Join.go_on`."""
        self.join.go_on()
        self._collect(completed_at)

    def parcels(self) -> list[Parcel]:
        """What is ready to be sent, in order. Each parcel has to come back through `delivered`."""
        ready: list[Parcel] = list(self._outbox.take())
        if self._letters:
            ready.extend(pack_letters(self._letters.take()))
        return ready

    def delivered(self, parcel: Parcel) -> None:
        """The broker has the parcel, on all its replicas."""
        if isinstance(parcel, Blocks):
            self.join.delivered(*parcel.requests)
            self._settle()
            return
        for letter in parcel.letters:
            if letter.parked is None:
                self._ledger.lettered(letter.side, letter.record.offset)
            else:
                self.join.parked.drop(letter.parked)

    def undeliverable(self, parcel: Blocks) -> None:
        """The parcel, of a single block, is larger than Kafka takes. Its request ends as a dead letter."""
        (one,), (late,) = parcel.requests, parcel.lates
        request = one if isinstance(one, Request) else self.join.requests.lift(one)
        side, offset = (Side.FEATURES, request.offset) if late < 0 else (Side.ACTIONS, late)
        detail = f"a block of {len(parcel.value)} bytes is larger than the producer may send"
        self._ledger.owe(side, offset)
        self._letters.add(side, (offset, request.index), "too_large", detail)
        self.join.delivered(one)
        self._settle()

    def acknowledged(self) -> dict[Side, int]:
        """As `Ledger.acknowledged`.

        While the store is behind, feature logs are held back: a request may have closed without actions that
        are still to be found. Whoever follows looks for them again.
        """
        return self._ledger.acknowledged(logs_too=not self.join.store_behind)

    def _receive_logs(self, message: Message) -> int:
        offset = message.offset
        try:
            told = self._reader.read(message.value)
        except InvalidMessage as error:
            self._unreadable(Side.FEATURES, message, error)
            return _NONE
        self._ledger.came(Side.FEATURES, offset, told.records)
        for packed, position, problem in told.unsound:
            self._refuse(packed, (offset, position), "invalid_features", problem)
        for _ in range(told.beats):
            self._ledger.passed(offset)
        if told.beats:
            self._heartbeats(told.beats, told.word)
        sheaf = told.sheaf
        if sheaf is not None and sheaf.newest <= message.timestamp + FUTURE_MS and not self._sampler.by_score:
            self._counts.feature_logs += sheaf.logs
            # a message of heartbeats alone has nothing to be looked up
            for first in self.join.open_sheaf(sheaf, offset) if sheaf.logs else ():
                self._ledger.doubled(first, offset)
            return sheaf.newest
        sound, newest = self._timely(told.sound, message)
        if self._sampler.by_score:
            scored = [head if isinstance(head, Head) else unpack(packed) for packed, head, _ in sound]
            self._sampler.note(self._sampler.score(offset, scored))
        self._counts.feature_logs += len(sound)
        for first in self.join.open(sound, offset):
            self._ledger.doubled(first, offset)
        return newest

    def _timely(self, logs: Sequence[Seen], message: Message) -> tuple[Sequence[Seen], int]:
        """Those that do not lie in the future, and the latest event time of them."""
        limit = message.timestamp + FUTURE_MS
        newest = max([head.event_time for _, head, _ in logs], default=_NONE)
        if newest <= limit:
            return logs, newest
        timely = []
        for log in logs:
            packed, head, index = log
            if head.event_time <= limit:
                timely.append(log)
            else:
                problem = f"event time {head.event_time} is past {limit}"
                self._refuse(packed, (message.offset, index), "future_event", problem)
        return timely, max((head.event_time for _, head, _ in timely), default=_NONE)

    def _refuse(self, packed: bytes, place: tuple[int, int], reason: str, problem: str) -> None:
        self._ledger.emitted([place[0]])
        self._letters.log(place, reason, problem, packed)

    def _receive_actions(self, message: Message) -> int:
        offset = message.offset
        try:
            heard = self.join.hear(message.value, offset, message.timestamp + FUTURE_MS)
        except InvalidMessage as error:
            self._unreadable(Side.ACTIONS, message, error)
            return _NONE
        self._ledger.came(Side.ACTIONS, offset, heard.actions)
        if heard.beats:
            self._heartbeats(heard.beats, heard.word)
        self._counts.actions += heard.actions
        return heard.newest

    def _heartbeats(self, count: int, word: int) -> None:
        self._counts.heartbeats += count
        self._word = max(word, self._word or 0)

    def _collect(self, completed_at: int) -> None:
        """Turn what the join has done into blocks, dead letters and resolved records."""
        join = self.join
        if join.emitted:
            late = join.late_below(self._ledger.unacked_action)
            stamp = Stamp(self._ledger.unsent, late, completed_at)
            self._ledger.emitted(self._outbox.put(join.emitted, stamp))
            join.emitted.clear()
        if join.released:
            self._ledger.released(join.released)
            join.released.clear()
        if join.rejected:
            self._letters.actions(join.rejected)
            join.rejected.clear()
        if join.settled:
            self._settle()

    def _settle(self) -> None:
        join, ledger = self.join, self._ledger
        ledger.settled(join.settled)
        join.settled.clear()
        for gone in join.gone:
            ledger.gone(gone)
        join.gone.clear()

    def _unreadable(self, side: Side, message: Message, error: InvalidMessage) -> None:
        self._ledger.came(side, message.offset, 1)
        if side is Side.FEATURES:
            self._ledger.emitted([message.offset])
        self._letters.whole(side, message.offset, error, message.value or b"")

"""One partition of the join: messages in; sample blocks, dead letters and acknowledgements out. Pure.

Ties the join, its watermark and the trackers of both topics together. Knows neither Kafka nor Faust.
"""

from __future__ import annotations

import heapq
from typing import Final, NamedTuple

from schema.codec import FEATURE_LOGS, USER_ACTIONS
from schema.errors import InvalidMessage
from schema.records import ActionBatch, DeadLetter, FeatureLog, Heartbeat, SampleBlock
from streaming.acks import OffsetTracker
from streaming.blocks import BlockMaker
from streaming.counts import Counts
from streaming.join import Emission, Join, Rejected
from streaming.late import LateStore
from streaming.parcels import PAYLOAD_BYTES, Blocks, Letter, Parcel, pack_blocks, pack_letters
from streaming.request import Request
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.waiting import Arrival
from streaming.watermark import Side, Watermark

FUTURE_MS: Final = 3_600_000
"""How far past the moment when Kafka had it a record's event time may lie."""

_WHOLE: Final = -1
"""The index in the dead letter of a message that could not be read at all."""

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
        self._maker = BlockMaker(number, rules.tasks, sampler)
        self._disorder = timing.disorder
        self._word: int | None = None
        self._topics = topics
        self._counts = counts
        self._unacked: tuple[OffsetTracker, OffsetTracker] = (OffsetTracker(), OffsetTracker())
        self._unsent = OffsetTracker()
        self._held: list[tuple[int, int]] = []
        self._blocks: list[tuple[SampleBlock, Request]] = []
        self._letters: list[Letter] = []

    @property
    def unacked(self) -> int:
        """How many messages were read and not acknowledged."""
        return sum(len(t) for t in self._unacked)

    @property
    def outbox(self) -> int:
        """How many blocks and dead letters wait to be taken by `parcels`."""
        return len(self._blocks) + len(self._letters)

    def next_offset(self, side: Side) -> int:
        """The offset after the last message that came, 0 before the first."""
        return self._unacked[side].end

    def receive(self, side: Side, message: Message, now: int) -> None:
        """A message came, after all those before it in its topic."""
        newest = self._receive_logs(message) if side is Side.FEATURES else self._receive_actions(message)
        # a producer whose clock is ahead must not close the windows of all others
        event_time = None if newest is None else min(newest, message.timestamp + self._disorder)
        if self._word is not None:
            event_time, self._word = max(self._word, event_time or self._word), None
        self._collect(message.timestamp)
        self.clock.observe(side, event_time, now)
        self.advance(message.timestamp)

    def advance(self, completed_at: int) -> None:
        """Close what the clock has passed. `completed_at`: when Kafka had what moved it on, Unix ms."""
        if self.clock.value is not None:
            self.join.advance(self.clock.value)
            self._collect(completed_at)

    def recalled(self, completed_at: int) -> None:
        """What earlier owners emitted is in the store now, as `Join.recalled`."""
        self.join.recalled()
        self._collect(completed_at)

    def caught_up(self, completed_at: int) -> None:
        """The store has every closed request, as `Join.caught_up`."""
        self.join.caught_up()
        self._collect(completed_at)

    def parcels(self) -> list[Parcel]:
        """What is ready to be sent, in order. Each parcel has to come back through `delivered`."""
        ready: list[Parcel] = []
        if self._blocks:
            blocks, self._blocks = self._blocks, []
            ready.extend(pack_blocks(blocks))
        if self._letters:
            letters, self._letters = self._letters, []
            ready.extend(pack_letters(letters))
        return ready

    def delivered(self, parcel: Parcel) -> None:
        """The broker has the parcel, on all its replicas."""
        if isinstance(parcel, Blocks):
            for request in parcel.requests:
                self.join.delivered(request)
            self._settle()
        else:
            for side, record in parcel.letters:
                self._unacked[side].resolve(record.offset)

    def undeliverable(self, parcel: Blocks) -> None:
        """The parcel, of a single block, is larger than Kafka takes. Its request ends as a dead letter."""
        (request,), (block,) = parcel.requests, parcel.blocks
        late = block.late_offset >= 0
        side, offset = (Side.ACTIONS, block.late_offset) if late else (Side.FEATURES, block.source.offset)
        detail = f"a block of {len(parcel.value)} bytes is larger than the producer may send"
        self._unacked[side].owe(offset)  # the message is not acknowledged before the letter has arrived
        self._letter(side, (offset, block.source.index), "too_large", detail, b"")
        self.join.delivered(request)
        self._settle()

    def acknowledged(self) -> dict[Side, int]:
        """The offset of each topic below which everything may be acknowledged now, once one has come.

        A feature log waits for the actions that spoke of its request: whoever reads on from the acknowledged
        offsets and meets such an action finds its feature log, too.
        """
        logs, actions = self._unacked
        actions.take_resolved()
        while self._held and self._held[0][0] < actions.low:
            logs.resolve(heapq.heappop(self._held)[1])
        logs.take_resolved()
        return {side: tracker.low for side, tracker in zip(Side, self._unacked, strict=True) if tracker.end}

    def _receive_logs(self, message: Message) -> int | None:
        try:
            records = FEATURE_LOGS.decode(message.value)
        except InvalidMessage as error:
            self._unreadable(Side.FEATURES, message, error)
            return None
        self._unacked[Side.FEATURES].add(message.offset, len(records))
        self._unsent.add(message.offset, len(records))
        limit = message.timestamp + FUTURE_MS
        newest = _NONE
        for index, record in enumerate(records):
            if isinstance(record, Heartbeat):
                self._heartbeat(record)
                self._pass_over(message.offset)
            elif self._receive_log(record, message.offset, index, limit):
                newest = max(newest, record.event_time)
        return None if newest == _NONE else newest

    def _receive_log(self, log: FeatureLog, offset: int, index: int, limit: int) -> bool:
        problem = log.problem()
        if problem is not None:
            self._bad_log(log, offset, index, "invalid_features", problem)
            return False
        if log.event_time > limit:
            self._bad_log(log, offset, index, "future_event", f"event time {log.event_time} is past {limit}")
            return False
        first = self.join.open(log, offset, index)
        if first is not None:
            self._pass_over(offset)
            self._unacked[Side.FEATURES].join(first, offset)
        return True

    def _receive_actions(self, message: Message) -> int | None:
        try:
            records = USER_ACTIONS.decode(message.value)
        except InvalidMessage as error:
            self._unreadable(Side.ACTIONS, message, error)
            return None
        total = sum(len(r.actions) if isinstance(r, ActionBatch) else 1 for r in records)
        self._unacked[Side.ACTIONS].add(message.offset, total)
        limit = message.timestamp + FUTURE_MS
        newest = _NONE
        for index, record in enumerate(records):
            if isinstance(record, Heartbeat):
                self._heartbeat(record)
                self._unacked[Side.ACTIONS].resolve(message.offset)
            else:
                newest = max(newest, self._receive_batch(record, message.offset, index, limit))
        return None if newest == _NONE else newest

    def _heartbeat(self, record: Heartbeat) -> None:
        self._counts.heartbeats += 1
        self._word = max(record.event_time, self._word or 0)

    def _receive_batch(self, batch: ActionBatch, offset: int, index: int, limit: int) -> int:
        newest = _NONE
        act = self.join.act
        for action in batch.actions:
            arrival = Arrival(action, batch.user_id, offset, index)
            if action.event_time > limit:
                detail = f"event time {action.event_time} is past {limit}"
                self.join.rejected.append(Rejected(arrival, "future_event", detail))
            else:
                newest = max(newest, action.event_time)
                act(arrival)
        return newest

    def _collect(self, completed_at: int) -> None:
        """Turn what the join has done into blocks, dead letters and resolved records."""
        join = self.join
        if join.emitted:
            for item in join.emitted:
                if isinstance(item, Emission):
                    self._emit(item, completed_at)
                else:
                    self._unsent.resolve(item.offset)
                    self._unsent.take_resolved()
            join.emitted.clear()
        if join.released:
            for offset in join.released:
                self._unacked[Side.ACTIONS].resolve(offset)
            join.released.clear()
        if join.rejected:
            for arrival, reason, detail in join.rejected:
                payload = USER_ACTIONS.encode([ActionBatch(arrival.user_id, (arrival.action,))])
                self._letter(Side.ACTIONS, (arrival.offset, arrival.position), reason, detail, payload)
            join.rejected.clear()
        self._settle()

    def _emit(self, emission: Emission, completed_at: int) -> None:
        late = emission.late >= 0
        low = self._unacked[Side.ACTIONS].low if late else self._unsent.low
        made = self._maker.make(emission, low, completed_at)
        self._blocks.append((made, emission.request))
        self._counts.blocks += 1
        kind = "late" if late else "early" if emission.request.open else "close"
        self._counts.rows[kind] += len(made)

    def _settle(self) -> None:
        settled = self.join.settled
        for request in settled:
            for offset in request.action_offsets or ():
                self._unacked[Side.ACTIONS].resolve(offset)
            request.action_offsets = None
            if request.owes_log:
                request.owes_log = False
                heapq.heappush(self._held, (request.last_action, request.offset))
        settled.clear()

    def _unreadable(self, side: Side, message: Message, error: InvalidMessage) -> None:
        self._unacked[side].add(message.offset, 1)
        if side is Side.FEATURES:
            self._unsent.add(message.offset, 0)
        self._letter(side, (message.offset, _WHOLE), error.reason, error.detail, message.value or b"")

    def _bad_log(self, log: FeatureLog, offset: int, index: int, reason: str, detail: str) -> None:
        self._unsent.resolve(offset)
        self._letter(Side.FEATURES, (offset, index), reason, detail, FEATURE_LOGS.encode([log]))

    def _letter(self, side: Side, place: tuple[int, int], reason: str, detail: str, payload: bytes) -> None:
        topic, (offset, index) = self._topics[side], place
        record = DeadLetter(topic, self.number, offset, index, reason, detail, payload[:PAYLOAD_BYTES])
        self._letters.append(Letter(side, record))
        self._counts.dead_letters[reason] += 1

    def _pass_over(self, offset: int) -> None:
        """A record of the feature logs that no block comes of, and that needs nothing more."""
        self._unsent.resolve(offset)
        self._unacked[Side.FEATURES].resolve(offset)

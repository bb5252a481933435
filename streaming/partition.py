"""One partition of the join: messages in; sample blocks, dead letters and acknowledgements out. Pure.

Ties the join, its watermark and the trackers of both topics together. Knows neither Kafka nor Faust: a
message carries a handle, which comes back when it may be acknowledged.
"""

from __future__ import annotations

import heapq
from typing import Any, Final, NamedTuple

from schema.codec import FEATURE_LOGS, USER_ACTIONS
from schema.errors import InvalidMessage
from schema.records import ActionBatch, DeadLetter, FeatureLog, Heartbeat, SampleBlock
from streaming.acks import OffsetTracker
from streaming.blocks import block
from streaming.counts import Counts
from streaming.join import Arrival, Join, Rejected, Rules
from streaming.parcels import PAYLOAD_BYTES, Blocks, Closed, Letter, Parcel, pack_blocks, pack_letters
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
    handle: Any


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
        counts: Counts,
        now: int,
    ) -> None:
        self.number = number
        self.clock = Watermark(timing.disorder, timing.idle, now)
        self.join = Join(rules, counts)
        self._topics = topics
        self._tasks = rules.tasks
        self._counts = counts
        self._unacked: tuple[OffsetTracker[Any], OffsetTracker[Any]] = (OffsetTracker(), OffsetTracker())
        self._unsent: OffsetTracker[None] = OffsetTracker()
        self._held: list[tuple[int, int]] = []
        self._blocks: list[tuple[SampleBlock, Closed]] = []
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
        self._settle()
        self.clock.observe(side, newest, now)
        self.advance(message.timestamp)

    def advance(self, completed_at: int) -> None:
        """Close what the clock has passed. `completed_at`: when Kafka had what moved it on, Unix ms."""
        watermark = self.clock.value
        if watermark is None:
            return
        for request in self.join.advance(watermark):
            made = block(request, self._tasks, self.number, self._unsent.low, completed_at)
            self._blocks.append((made, Closed.of(request)))
            self._counts.blocks += 1
            self._counts.rows += len(made)
            self._unsent.resolve(request.offset)
            self._unsent.take_resolved()
        self._settle()

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
            for closed in parcel.closed:
                for offset in closed.action_offsets:
                    self._unacked[Side.ACTIONS].resolve(offset)
                heapq.heappush(self._held, (closed.last_action, closed.offset))
        else:
            for side, record in parcel.letters:
                self._unacked[side].resolve(record.offset)

    def undeliverable(self, parcel: Blocks) -> None:
        """The parcel, of a single block, is larger than Kafka takes. Its request ends as a dead letter."""
        (closed,) = parcel.closed
        detail = f"a block of {len(parcel.value)} bytes is larger than the producer may send"
        source = parcel.blocks[0].source
        self._letter(Side.FEATURES, (source.offset, source.index), "too_large", detail, b"")
        for offset in closed.action_offsets:
            self._unacked[Side.ACTIONS].resolve(offset)

    def acknowledged(self) -> list[Any]:
        """The handles of the messages that may be acknowledged now, each topic's in offset order.

        A feature log waits for the actions that spoke of its request: whoever reads on from the acknowledged
        offsets and meets such an action finds its feature log, too.
        """
        logs, actions = self._unacked
        handles = actions.take_resolved()
        while self._held and self._held[0][0] < actions.low:
            logs.resolve(heapq.heappop(self._held)[1])
        handles.extend(logs.take_resolved())
        return handles

    def _receive_logs(self, message: Message) -> int | None:
        try:
            records = FEATURE_LOGS.decode(message.value)
        except InvalidMessage as error:
            self._unreadable(Side.FEATURES, message, error)
            return None
        self._unacked[Side.FEATURES].add(message.offset, len(records), message.handle)
        self._unsent.add(message.offset, len(records), None)
        limit = message.timestamp + FUTURE_MS
        newest = _NONE
        for index, record in enumerate(records):
            if isinstance(record, Heartbeat):
                self._counts.heartbeats += 1
                self._pass_over(message.offset)
            elif not self._receive_log(record, message.offset, index, limit):
                continue
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
        self._unacked[Side.ACTIONS].add(message.offset, total, message.handle)
        limit = message.timestamp + FUTURE_MS
        newest = _NONE
        for index, record in enumerate(records):
            if isinstance(record, Heartbeat):
                self._counts.heartbeats += 1
                self._unacked[Side.ACTIONS].resolve(message.offset)
                newest = max(newest, record.event_time)
            else:
                newest = max(newest, self._receive_batch(record, message.offset, index, limit))
        return None if newest == _NONE else newest

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

    def _settle(self) -> None:
        join = self.join
        if join.released:
            for offset in join.released:
                self._unacked[Side.ACTIONS].resolve(offset)
            join.released.clear()
        if join.rejected:
            for arrival, reason, detail in join.rejected:
                payload = USER_ACTIONS.encode([ActionBatch(arrival.user_id, (arrival.action,))])
                self._letter(Side.ACTIONS, (arrival.offset, arrival.position), reason, detail, payload)
            join.rejected.clear()

    def _unreadable(self, side: Side, message: Message, error: InvalidMessage) -> None:
        self._unacked[side].add(message.offset, 1, message.handle)
        if side is Side.FEATURES:
            self._unsent.add(message.offset, 0, None)
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

"""Turns messages of the samples topic into entries: blocks fit to train on, and dead letters.

Pure. After this nothing else has to doubt a block. Messages as the codec writes them are read many at once,
in columns (`trainer.columns.scan`); what that does not understand is decoded record by record, which names
what is wrong with one, and lets those beside it pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from schema.codec import TRAINING_SAMPLES, envelope_body
from schema.config import FeaturesConfig
from schema.errors import InvalidMessage
from schema.records import I64, DeadLetter, SampleBlock
from trainer.columns import layout, scan
from trainer.columns.blocks import Blocks
from trainer.entries import Entry, Position

_PAYLOAD_LIMIT: Final = 1 << 20
_NUMBER_LIMIT: Final = 1 << 63
_PLACE: Final = [layout.MESSAGE, layout.WITHIN, layout.LAST]


class Message(NamedTuple):
    """A message and where it lies. `joined_at`: when it was made, Unix ms; 0 where that is not known."""

    partition: int
    offset: int
    payload: bytes | None
    joined_at: int = 0


class Placed(NamedTuple):
    """One block, encoded alone, that lay in a partition from `position` to the `following` one.

    `payload` is None where none did.
    """

    partition: int
    position: Position
    following: Position
    payload: bytes | None


class MessageReader:
    """Reads the messages of one topic.

    Args:
        topic: its name, for dead letters.
        features: what the dense values have to be.
        tasks: the tasks that every block has to speak of, in order.
    """

    def __init__(self, topic: str, features: FeaturesConfig, tasks: Sequence[str]) -> None:
        self._topic = topic
        self._tasks = tuple(tasks)
        self._form = layout.Form.of(features, tasks)

    def read(self, messages: Sequence[Message]) -> list[Entry]:
        """The entries of `messages`; all positions are passed, also those of messages without a block."""
        whole, counts = self._scanned([message.payload for message in messages])
        _note(whole, messages, np.maximum(counts, 0))
        lies = [
            _Lies(m.partition, Position(m.offset), Position(m.offset + 1), count)
            for m, count in zip(messages, counts.tolist(), strict=True)
        ]

        def others(number: int) -> list[Entry]:
            partition, start, end, count = lies[number]
            return self._slowly(messages[number]) if count else [Entry(partition, start, end)]

        return _joined(whole, lies, others)

    def entries(self, partition: int, offset: int, payload: bytes | None, joined_at: int = 0) -> list[Entry]:
        """As `read`, of one message."""
        return self.read([Message(partition, offset, payload, joined_at)])

    def placed(self, placed: Sequence[Placed]) -> list[Entry]:
        """The entries of some blocks, and of places where there is none."""
        whole, counts = self._scanned([one.payload for one in placed])
        lies = [
            _Lies(one.partition, one.position, one.following, int(count == 1))
            for one, count in zip(placed, counts.tolist(), strict=True)
        ]
        ones = np.flatnonzero(counts == 1)
        at = (np.cumsum(np.maximum(counts, 0)) - 1)[ones]
        places = [(*lies[i].position, lies[i].following.within == 0) for i in ones.tolist()]
        whole.table[at[:, None], _PLACE] = np.array(places, np.int64).reshape(-1, len(_PLACE))
        return _joined(whole.chosen(at), lies, lambda number: [self._placed_slowly(placed[number])])

    def _scanned(self, payloads: Sequence[bytes | None]) -> tuple[Blocks, I64]:
        """As `scan.read`, of messages with their headers."""
        bodies: list[bytes | memoryview] = []
        for payload in payloads:
            try:
                bodies.append(envelope_body(payload))
            except InvalidMessage:
                bodies.append(b"")
        return scan.read(self._form, bodies)

    def _slowly(self, message: Message) -> list[Entry]:
        partition, offset, payload, joined_at = message
        try:
            records = TRAINING_SAMPLES.decode(payload)
        except InvalidMessage as error:
            place, end = Position(offset), Position(offset + 1)
            dead = self._dead(partition, place, error.reason, error.detail, payload or b"")
            return [Entry(partition, place, end, dead=dead)]
        places = [*(Position(offset, i) for i in range(len(records))), Position(offset + 1)]
        return [
            self._record(partition, place, following, record, joined_at)
            for record, (place, following) in zip(records, pairwise(places), strict=True)
        ]

    def _placed_slowly(self, placed: Placed) -> Entry:
        partition, position, following, payload = placed
        if payload is None:
            return Entry(partition, position, following)
        try:
            (record,) = TRAINING_SAMPLES.decode(payload)
        except (InvalidMessage, ValueError) as error:
            dead = self._dead(partition, position, "block", str(error), payload)
            return Entry(partition, position, following, dead=dead)
        return self._record(partition, position, following, record)

    def _record(
        self, partition: int, position: Position, following: Position, record: SampleBlock, joined_at: int = 0
    ) -> Entry:
        problem = self._problem(record)
        if problem is None:
            blocks = scan.encoded(self._form, [record])
            blocks.table[0, _PLACE] = *position, following.within == 0
            blocks.table[0, layout.JOINED_AT] = joined_at or record.completed_at
            return Entry(partition, position, following, blocks)
        dead = self._dead(partition, position, "block", problem, TRAINING_SAMPLES.encode([record]))
        return Entry(partition, position, following, dead=dead)

    def _problem(self, block: SampleBlock) -> str | None:
        """What is wrong with `block`, or None."""
        if block.tasks != self._tasks:
            return f"tasks: {list(block.tasks)}; legal is {list(self._tasks)}"
        form, features, rows = self._form, block.features, len(block)
        sizes = (
            ("context_dense", features.context_dense, 4 * form.context_dense),
            ("item_dense", features.item_dense, 4 * form.item_dense * rows),
        )
        return (
            block.problem()
            or next((_size_problem(*column) for column in sizes if len(column[1]) != column[2]), None)
            or _number_problem(block)
            or _value_problem(block)
        )

    def _dead(
        self, partition: int, position: Position, reason: str, detail: str, payload: bytes
    ) -> DeadLetter:
        place = (self._topic, partition, position.offset, position.within)
        return DeadLetter(*place, reason, detail, payload[:_PAYLOAD_LIMIT])


class _Lies(NamedTuple):
    """So many blocks that lie from `position` to the `following` one; below 1 where none can be had."""

    partition: int
    position: Position
    following: Position
    blocks: int

    def goes_on_with(self, other: _Lies) -> bool:
        """Whether `other` is the next of the same partition, and blocks of both are one stretch."""
        offset, within = self.position
        plain = self.following in ((offset + 1, 0), (offset, within + self.blocks))
        return (
            plain
            and other.blocks > 0
            and (other.partition, other.position) == (self.partition, self.following)
        )


def _joined(whole: Blocks, lies: Sequence[_Lies], others: Callable[[int], list[Entry]]) -> list[Entry]:
    """Entries of as many blocks of `whole` as follow one another; `others` of what has none, by number."""
    entries: list[Entry] = []
    first = end = 0
    start = Position(0)
    for number, lie in enumerate(lies):
        if lie.blocks < 1:
            entries += others(number)
            continue
        start = lie.position if first == end else start
        end += lie.blocks
        if number + 1 < len(lies) and lie.goes_on_with(lies[number + 1]):
            continue
        entries.append(Entry(lie.partition, start, lie.following, whole.part(first, end)))
        first = end
    return entries


def _note(whole: Blocks, messages: Sequence[Message], counts: I64) -> None:
    """Have the blocks of `messages`, so many of each, know of which they are, and when it was made."""
    table = whole.table
    joined = np.repeat([message.joined_at for message in messages], counts)
    table[:, layout.JOINED_AT] = np.where(joined, joined, table[:, layout.COMPLETED_AT])
    table[:, layout.MESSAGE] = np.repeat([message.offset for message in messages], counts)


def _size_problem(name: str, column: bytes, legal: int) -> str:
    return f"features.{name}: {len(column)} bytes; legal is {legal}"


def _number_problem(block: SampleBlock) -> str | None:
    """Which number of `block` is larger than columns hold, or None."""
    source = block.source
    numbers = {
        "source.partition": source.partition,
        "source.offset": source.offset,
        "source.index": source.index,
        "resolved_below": block.resolved_below,
        "surface": block.surface,
        "late_offset": block.late_offset,
    }
    for name, number in numbers.items():
        if number >= _NUMBER_LIMIT:
            return f"{name}: {number}; legal is below {_NUMBER_LIMIT}"
    return None


def _value_problem(block: SampleBlock) -> str | None:
    """Which value of `block`, whose form is right, is out of bounds, or None."""
    for name in ("context_dense", "item_dense"):
        if not np.isfinite(np.frombuffer(getattr(block.features, name), "<f4")).all():
            return f"features.{name}: one is not finite; legal is a finite number"
    if not (np.frombuffer(block.log_keep, "<f4") <= 0).all():
        return "log_keep: one is above 0 or not a number; legal is the logarithm of a probability"
    odds = np.frombuffer(block.propensities, "<f4")
    if not ((odds > 0) & (odds <= 1)).all():
        return "propensities: one is not in (0, 1]; legal is the odds of having been shown"
    labels = block.label_matrix()[block.mask_matrix() > 0]
    if not ((labels >= 0) & (labels <= 1)).all():
        return "labels: one is not in 0 to 1; legal is a probability"
    return None

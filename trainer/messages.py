"""Turns messages of the samples topic into entries: blocks fit to train on, and dead letters.

Pure. After this nothing else has to doubt a block. Messages as the codec writes them are read many at once,
in columns (`trainer.columns.scan`); what that does not understand is decoded record by record, which names
what is wrong with one, and lets those beside it pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from schema.codec import TRAINING_SAMPLES, envelope_body
from schema.config import FeaturesConfig
from schema.errors import InvalidMessage
from schema.records import DeadLetter, SampleBlock
from trainer.columns import layout, scan
from trainer.columns.blocks import Blocks
from trainer.entries import Entry, Position

_PAYLOAD_LIMIT: Final = 1 << 20
_NUMBER_LIMIT: Final = 1 << 63


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
        """The entries of `messages`, of each at least one, so that its position is passed."""
        entries: list[Entry] = []
        for message, blocks in zip(messages, self._scanned([m.payload for m in messages]), strict=True):
            if blocks is None:
                entries += self._slowly(message)
                continue
            _note_joined(blocks, message.joined_at)
            start, end = Position(message.offset), Position(message.offset + 1)
            entries.append(Entry(message.partition, start, end, blocks if len(blocks) else None))
        return entries

    def entries(self, partition: int, offset: int, payload: bytes | None, joined_at: int = 0) -> list[Entry]:
        """As `read`, of one message."""
        return self.read([Message(partition, offset, payload, joined_at)])

    def single(self, placed: Sequence[Placed]) -> list[Entry]:
        """The entry of each of some blocks."""
        return [
            Entry(one.partition, one.position, one.following, blocks)
            if blocks is not None and len(blocks) == 1
            else self._single_slowly(one)
            for one, blocks in zip(placed, self._scanned([one.payload for one in placed]), strict=True)
        ]

    def _scanned(self, payloads: Sequence[bytes | None]) -> list[Blocks | None]:
        """The blocks of messages; None for those that are not as the codec writes sound blocks."""
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
        entries = [
            self._record(partition, place, following, record)
            for record, (place, following) in zip(records, pairwise(places), strict=True)
        ]
        for entry in entries:
            if entry.blocks is not None:
                _note_joined(entry.blocks, joined_at)
        return entries

    def _single_slowly(self, placed: Placed) -> Entry:
        partition, position, following, payload = placed
        if payload is None:
            return Entry(partition, position, following)
        try:
            (record,) = TRAINING_SAMPLES.decode(payload)
        except (InvalidMessage, ValueError) as error:
            dead = self._dead(partition, position, "block", str(error), payload)
            return Entry(partition, position, following, dead=dead)
        return self._record(partition, position, following, record)

    def _record(self, partition: int, position: Position, following: Position, record: SampleBlock) -> Entry:
        problem = self._problem(record)
        if problem is None:
            return Entry(partition, position, following, scan.encoded(self._form, [record]))
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


def _note_joined(blocks: Blocks, joined_at: int) -> None:
    """Have `blocks` know when they were emitted; until then that is when their labels were complete."""
    if joined_at:
        blocks.table[:, layout.JOINED_AT] = joined_at


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
    labels = block.label_matrix()[block.mask_matrix() > 0]
    if not ((labels >= 0) & (labels <= 1)).all():
        return "labels: one is not in 0 to 1; legal is a probability"
    return None

"""Turns a message of the samples topic into entries: blocks fit to train on, and dead letters.

Pure. After this nothing else has to doubt a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from schema.codec import TRAINING_SAMPLES
from schema.config import FeaturesConfig
from schema.errors import InvalidMessage
from schema.records import DeadLetter, SampleBlock
from trainer.entries import Entry, Position

_PAYLOAD_LIMIT: Final = 1 << 20


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
        context = sum(d.source.startswith("user.") for d in features.dense)
        self._context_bytes = 4 * context
        self._item_bytes = 4 * (len(features.dense) - context)

    def entries(self, partition: int, offset: int, payload: bytes | None, joined_at: int = 0) -> list[Entry]:
        """The entries of the message at `offset`: at least one, so that its position is passed.

        `joined_at`: when the message was made, Unix ms.
        """
        following = Position(offset + 1)
        try:
            blocks = TRAINING_SAMPLES.decode(payload)
        except InvalidMessage as error:
            dead = self._dead(partition, Position(offset), error.reason, error.detail, payload or b"")
            return [Entry(partition, Position(offset), following, dead=dead)]
        if not blocks:
            return [Entry(partition, Position(offset), following)]
        places = [Position(offset, i) for i in range(len(blocks))]
        ends = [*places[1:], following]
        problems = [self._problem(block) for block in blocks]
        if problems == [None] * len(blocks) and _values_fit(blocks):
            return [
                Entry(partition, place, end, block, joined_at=joined_at)
                for place, end, block in zip(places, ends, blocks, strict=True)
            ]
        return [
            self._entry(partition, place, end, block, problem, joined_at=joined_at)
            for place, end, block, problem in zip(places, ends, blocks, problems, strict=True)
        ]

    def _entry(
        self,
        partition: int,
        place: Position,
        following: Position,
        block: SampleBlock,
        problem: str | None,
        *,
        joined_at: int,
    ) -> Entry:
        problem = problem or _value_problem(block)
        if problem is None:
            return Entry(partition, place, following, block, joined_at=joined_at)
        dead = self._dead(partition, place, "block", problem, TRAINING_SAMPLES.encode([block]))
        return Entry(partition, place, following, dead=dead)

    def _problem(self, block: SampleBlock) -> str | None:
        """What is wrong with the form of `block`, or None."""
        if block.tasks != self._tasks:
            return f"tasks: {list(block.tasks)}; legal is {list(self._tasks)}"
        problem = block.problem()
        if problem is not None:
            return problem
        features = block.features
        if len(features.context_dense) != self._context_bytes:
            return (
                f"features.context_dense: {len(features.context_dense)} bytes; legal is {self._context_bytes}"
            )
        size = self._item_bytes * len(block)
        if len(features.item_dense) != size:
            return f"features.item_dense: {len(features.item_dense)} bytes; legal is {size}"
        return None

    def _dead(
        self, partition: int, position: Position, reason: str, detail: str, payload: bytes
    ) -> DeadLetter:
        place = (self._topic, partition, position.offset, position.within)
        return DeadLetter(*place, reason, detail, payload[:_PAYLOAD_LIMIT])


def _values_fit(blocks: Sequence[SampleBlock]) -> bool:
    """Whether no value of any of `blocks`, whose form is right, is out of bounds; asked of all at once."""
    whole = _Values(
        [b.features.context_dense for b in blocks],
        [b.features.item_dense for b in blocks],
        [b.log_keep for b in blocks],
        [b.labels for b in blocks],
        [b.mask for b in blocks],
    )
    return whole.problem() is None


def _value_problem(block: SampleBlock) -> str | None:
    """Which value of `block`, whose form is right, is out of bounds, or None."""
    features = block.features
    columns = (features.context_dense, features.item_dense, block.log_keep, block.labels, block.mask)
    return _Values(*([column] for column in columns)).problem()


class _Values(NamedTuple):
    """The columns of some blocks whose values have bounds."""

    context_dense: list[bytes]
    item_dense: list[bytes]
    log_keep: list[bytes]
    labels: list[bytes]
    mask: list[bytes]

    def problem(self) -> str | None:
        for name in ("context_dense", "item_dense"):
            if not np.isfinite(np.frombuffer(b"".join(getattr(self, name)), "<f4")).all():
                return f"features.{name}: one is not finite; legal is a finite number"
        if not (np.frombuffer(b"".join(self.log_keep), "<f4") <= 0).all():
            return "log_keep: one is above 0 or not a number; legal is the logarithm of a probability"
        labels = np.frombuffer(b"".join(self.labels), "<f4")[np.frombuffer(b"".join(self.mask), "u1") > 0]
        if not ((labels >= 0) & (labels <= 1)).all():
            return "labels: one is not in 0 to 1; legal is a probability"
        return None

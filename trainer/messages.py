"""Turns a message of the samples topic into entries: blocks fit to train on, and dead letters.

Pure. After this nothing else has to doubt a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

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
        ends = [*(Position(offset, i) for i in range(1, len(blocks))), following]
        return [
            self._entry(partition, Position(offset, i), end, block, joined_at)
            for i, (block, end) in enumerate(zip(blocks, ends, strict=True))
        ]

    def _entry(
        self, partition: int, position: Position, following: Position, block: SampleBlock, joined_at: int
    ) -> Entry:
        problem = self._problem(block)
        if problem is None:
            return Entry(partition, position, following, block, joined_at=joined_at)
        dead = self._dead(partition, position, "block", problem, TRAINING_SAMPLES.encode([block]))
        return Entry(partition, position, following, dead=dead)

    def _problem(self, block: SampleBlock) -> str | None:
        if block.tasks != self._tasks:
            return f"tasks: {list(block.tasks)}; legal is {list(self._tasks)}"
        problem = block.problem()
        if problem is not None:
            return problem
        features = block.features
        widths = (
            ("context_dense", features.context_dense, self._context_bytes),
            ("item_dense", features.item_dense, self._item_bytes * len(block)),
        )
        for name, column, size in widths:
            if len(column) != size:
                return f"features.{name}: {len(column)} bytes; legal is {size}"
            if not np.isfinite(np.frombuffer(column, "<f4")).all():
                return f"features.{name}: one is not finite; legal is a finite number"
        return _value_problem(block)

    def _dead(
        self, partition: int, position: Position, reason: str, detail: str, payload: bytes
    ) -> DeadLetter:
        place = (self._topic, partition, position.offset, position.within)
        return DeadLetter(*place, reason, detail, payload[:_PAYLOAD_LIMIT])


def _value_problem(block: SampleBlock) -> str | None:
    if not (np.frombuffer(block.log_keep, "<f4") <= 0).all():
        return "log_keep: one is above 0 or not a number; legal is the logarithm of a probability"
    labels = block.label_matrix()[block.mask_matrix() > 0]
    if not ((labels >= 0) & (labels <= 1)).all():
        return "labels: one is not in 0 to 1; legal is a probability"
    return None

"""Places in the samples topic, and what lies at them. Values only."""

from __future__ import annotations

from typing import NamedTuple, Self

import msgspec

from schema.records import DeadLetter
from trainer.columns.blocks import Blocks


class Position(NamedTuple):
    """A place in a partition: the offset of a message, and the number of a block within its envelope."""

    offset: int
    within: int = 0


class Run(NamedTuple):
    """A stretch of a partition: the blocks from `start` on, up to but without `end`."""

    partition: int
    start: Position
    end: Position


class Entry(msgspec.Struct, frozen=True, gc=False):
    """What lies from one position to the `following` one: blocks, or one dead letter.

    Neither of them where an envelope has no records. `blocks` are at least one; nothing lies between them.
    """

    partition: int
    position: Position
    following: Position
    blocks: Blocks | None = None
    dead: DeadLetter | None = None

    @classmethod
    def of(cls, partition: int, blocks: Blocks) -> Self:
        """The entry of `blocks`, of which there is at least one."""
        start, end = Position(*blocks.place(0)), Position(*blocks.following(len(blocks) - 1))
        return cls(partition, start, end, blocks)

    def __len__(self) -> int:
        return 1 if self.blocks is None else len(self.blocks)

    def split(self, count: int) -> tuple[Self, Self]:
        """The first `count` of several blocks, at least one, and the rest, at least one, too."""
        assert self.blocks is not None  # noqa: S101 - a dead letter is one
        first, rest = self.blocks.part(0, count), self.blocks.part(count, len(self.blocks))
        return self.of(self.partition, first), self.of(self.partition, rest)

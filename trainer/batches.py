"""Closes batches by rows, or by time where the samples end, and remembers what each batch has read.

So a run over samples that are there already is a function of them: how fast they come decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schema.records import DeadLetter
from trainer.columns.blocks import Blocks
from trainer.columns.rows import BlockRows
from trainer.columns.scan import replaced
from trainer.dedup import DuplicateFilter
from trainer.entries import Entry, Run
from trainer.feed import Feed
from trainer.pieces import narrowed


@dataclass(slots=True)
class RowBatch:
    """The rows to train on in one step, and how the samples topic was read for them, in that order."""

    dead: list[DeadLetter] = field(default_factory=list)
    rows: int = 0
    duplicates: int = 0
    _parts: list[Blocks] = field(default_factory=list)
    _columns: BlockRows | None = None
    _first: list[Entry] = field(default_factory=list)
    _last: list[Entry] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """What was read, in that order."""
        ends = zip(self._first, self._last, strict=True)
        return [Run(first.partition, first.position, last.following) for first, last in ends]

    def columns(self) -> BlockRows:
        """The rows, of which there is at least one, in columns; nothing is added afterwards."""
        if self._columns is None:
            self._columns = BlockRows(Blocks.joined(self._parts))
        return self._columns

    def add(self, entry: Entry, duplicates: DuplicateFilter) -> None:
        """Read `entry`: its rows that `duplicates` has not had are in the batch."""
        self._extend_runs(entry)
        if entry.dead is not None:
            self.dead.append(entry.dead)
        if entry.blocks is None:
            return
        blocks = entry.blocks
        repeated = duplicates.take(blocks)
        done = 0
        for number in sorted(repeated.keys() | blocks.with_idle_rows()):
            self._keep(blocks.part(done, number))
            self._keep_of(blocks.part(number, number + 1), repeated.get(number))
            done = number + 1
        self._keep(blocks.part(done, len(blocks)) if done else blocks)

    def _keep(self, blocks: Blocks) -> None:
        if len(blocks):
            self._parts.append(blocks)
            self.rows += blocks.rows

    def _keep_of(self, single: Blocks, fresh: bytes | None) -> None:
        """Keep the rows of one block that have a pair left, of those that `fresh` says, all if it is None."""
        kept = narrowed(single.block(0), single.mask(0) if fresh is None else fresh)
        rows = 0 if kept is None else len(kept)
        if kept is not None:
            self._keep(replaced(single, kept))
        if fresh is not None:
            self.duplicates += single.busy_rows - rows

    def _extend_runs(self, entry: Entry) -> None:
        if self._last and self._last[-1].partition == entry.partition:
            self._last[-1] = entry
        else:
            self._first.append(entry)
            self._last.append(entry)


class Batcher:
    """Makes batches of a feed's entries.

    Args:
        feed: where entries come from.
        duplicates: what has been had.
        rows: a batch closes once it has this many; a block is never split.
        wait_seconds: one with fewer closes this long after its first entry, or later, as soon as there are
            no more entries to be had.
        clock: seconds.
    """

    def __init__(
        self,
        feed: Feed,
        duplicates: DuplicateFilter,
        rows: int,
        wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._duplicates = duplicates
        self._rows = rows
        self._wait = wait_seconds
        self._clock = clock
        self._open: RowBatch | None = None
        self._closes_at = 0.0

    @property
    def paused(self) -> bool:
        """Whether there was nothing more to be read, and all that was has been handed out."""
        return self._open is None and self._feed.caught_up

    def next(self, before_waiting: Callable[[], None] = lambda: None) -> RowBatch | None:
        """The next batch, with no rows if all that came was duplicate or dead; None if none is ready yet.

        `before_waiting` is called before it waits for an entry that is not there yet.
        """
        until = self._clock() + self._wait
        while not self._ready():
            left = until - self._clock()
            if left <= 0:
                return None
            if self._open is not None and self._feed.caught_up:
                left = min(left, self._closes_at - self._clock())
            rows = self._rows - (0 if self._open is None else self._open.rows)
            entry = self._feed.next(0.0, rows)
            if entry is None:
                before_waiting()
                entry = self._feed.next(left, rows)
            if entry is not None:
                self._add(entry)
        batch, self._open = self._open, None
        return batch

    def _ready(self) -> bool:
        if self._open is None:
            return False
        return self._open.rows >= self._rows or (self._feed.caught_up and self._clock() >= self._closes_at)

    def _add(self, entry: Entry) -> None:
        if self._open is None:
            self._open = RowBatch()
            self._closes_at = self._clock() + self._wait
            self._duplicates.begin()
        self._open.add(entry, self._duplicates)

    def again(self, runs: Iterable[Run], timeout: float) -> RowBatch:
        """The batch that read `runs`, made anew.

        Raises:
            RecoveryError: they cannot be read within `timeout` seconds each.
        """
        batch = RowBatch()
        self._duplicates.begin()
        for run in runs:
            for entry in self._feed.take(run, timeout):
                batch.add(entry, self._duplicates)
        return batch

"""Closes batches by rows or by time, drops duplicates on the way, and remembers what each batch has read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from schema.records import DeadLetter
from trainer.dedup import DuplicateFilter
from trainer.entries import Entry, Piece, Rows, Run, piece
from trainer.feed import Feed


@dataclass(slots=True)
class RowBatch:
    """The rows to train on in one step, and how the samples topic was read for them, in that order."""

    pieces: list[Piece] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    rows: int = 0
    duplicates: int = 0

    def columns(self) -> Rows:
        """The rows in columns."""
        return Rows(self.pieces)

    def late_rows(self) -> int:
        """How many rows have been trained before."""
        return sum([len(p) for p in self.pieces if p.late])

    def add(self, entry: Entry, duplicates: DuplicateFilter) -> None:
        """Read `entry`: its rows that `duplicates` has not had are in the batch."""
        self._extend_runs(entry)
        if entry.dead is not None:
            self.dead.append(entry.dead)
        if entry.block is None:
            return
        fresh = duplicates.take(entry.block)
        kept = piece(entry.block, fresh, entry.joined_at)
        rows = 0 if kept is None else len(kept)
        if kept is not None:
            self.pieces.append(kept)
            self.rows += rows
        if fresh != entry.block.mask:
            self.duplicates += int(entry.block.mask_matrix().any(axis=1).sum()) - rows

    def _extend_runs(self, entry: Entry) -> None:
        last = self.runs[-1] if self.runs else None
        if last is not None and last.partition == entry.partition:
            self.runs[-1] = Run(last.partition, last.start, entry.following)
        else:
            self.runs.append(Run(entry.partition, entry.position, entry.following))


class Batcher:
    """Makes batches of a feed's entries.

    Args:
        feed: where entries come from.
        duplicates: what has been had.
        rows: a batch closes once it has this many; a block is never split.
        wait_seconds: a batch closes this long after its first entry at the latest.
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

    def next(self) -> RowBatch | None:
        """The next batch, with no rows if all that came was duplicate or dead; None if nothing came."""
        batch = RowBatch()
        deadline = self._clock() + self._wait
        while batch.rows < self._rows and (left := deadline - self._clock()) > 0:
            entry = self._feed.next(left)
            if entry is None:
                break
            if not batch.runs:
                deadline = self._clock() + self._wait
                self._duplicates.begin()
            batch.add(entry, self._duplicates)
        return batch if batch.runs else None

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

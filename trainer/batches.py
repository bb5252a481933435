"""Closes batches by rows or by time, drops duplicates on the way, and remembers what each batch has read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from schema.records import F32, I64, DeadLetter
from trainer.dedup import DuplicateFilter
from trainer.entries import Entry, Piece, Run, piece
from trainer.feed import Feed


@dataclass(slots=True)
class RowBatch:
    """The rows to train on in one step, and how the samples topic was read for them, in that order."""

    pieces: list[Piece] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    rows: int = 0
    duplicates: int = 0

    def labels(self) -> F32:
        """Shape (rows, T)."""
        return np.concatenate([p.labels for p in self.pieces])

    def mask(self) -> F32:
        """What is evaluated, shape (rows, T): not the late rows, which were counted before."""
        return np.concatenate([p.mask * (not p.late) for p in self.pieces])

    def weights(self) -> F32:
        """What each row counts for in the evaluation, shape (rows,): one over the chance of having been kept.

        Where nobody engaged, that is; rows with a positive label are all kept.
        """
        log_keep = np.concatenate([p.log_keep for p in self.pieces])
        engaged = self.labels().max(axis=1) > 0
        weights: F32 = np.where(engaged, 1, np.exp(-log_keep)).astype(np.float32)
        return weights

    def late_rows(self) -> int:
        """How many rows have been trained before."""
        return sum(len(p.items) for p in self.pieces if p.late)

    def event_times(self) -> I64:
        """Of each row, milliseconds, shape (rows,)."""
        return self.of_rows([p.event_time for p in self.pieces])

    def of_rows(self, values: list[int]) -> I64:
        """`values`, one a piece, for each row, shape (rows,)."""
        return np.repeat(np.array(values, np.int64), [len(p.items) for p in self.pieces])

    def add(self, entry: Entry, duplicates: DuplicateFilter) -> None:
        """Read `entry`: its rows that `duplicates` has not had are in the batch."""
        self._extend_runs(entry)
        if entry.dead is not None:
            self.dead.append(entry.dead)
        if entry.block is None:
            return
        spoken = int(entry.block.mask_matrix().any(axis=1).sum())
        kept = piece(entry.block, duplicates.fresh(entry.block))
        if kept is not None:
            self.pieces.append(kept)
            self.rows += len(kept.items)
        self.duplicates += spoken - (0 if kept is None else len(kept.items))

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

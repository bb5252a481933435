"""The samples out of a Parquet dump instead of the topic: the same entries, in the same order and places.

So batch training is online training over files, and online training goes on at the offset where they end.
Knows Arrow and files. What a backfill has made was never in the topic: its places are numbers of its own.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.parquet as pq

from schema.dump import BLOCK, SAMPLE_OFFSET, SAMPLE_WITHIN, Span, files, spans
from trainer.entries import Position
from trainer.errors import RecoveryError
from trainer.feed import Chunk
from trainer.messages import MessageReader, Placed

_ROWS_A_READ: Final = 4096
_ENTRIES_A_CHUNK: Final = 256


class _Found(NamedTuple):
    """A block as it was sent, and where it lies."""

    position: Position
    payload: bytes


class HistorySource:
    """Reads the spans that were complete when it was made.

    Args:
        folder: the dump's.
        partitions: how many the samples topic has.
        reader: checks blocks.
        wait: lets seconds pass where there is nothing more.

    Raises:
        RecoveryError: nothing is there, or files of the dump are of different kinds.
    """

    def __init__(
        self,
        folder: Path,
        partitions: int,
        reader: MessageReader,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._wait = wait
        self._spans = spans(folder)
        if not self._spans:
            raise RecoveryError(f"{folder}: no complete span of samples; legal is the folder of a dump")
        strange = {span.partition for span in self._spans} - set(range(partitions))
        if strange:
            raise RecoveryError(
                f"{folder}: samples of partition {min(strange)}; the topic has {partitions} partitions"
            )
        self._history = self._never_in_the_topic()
        self._placed: dict[int, Iterator[Placed]] = {}
        self._held: frozenset[int] = frozenset()
        self._turn = 0
        self._ended = False

    @property
    def history(self) -> bool:
        """Whether what it has was never in the samples topic, so that its positions are its own."""
        return self._history

    def start(self, positions: Mapping[int, Position]) -> None:
        """Begin to read at `positions`, which name every partition."""
        self._placed = {p: self._of_partition(p, position) for p, position in positions.items()}
        self._ended = False

    def get(self, timeout: float) -> Chunk | None:
        """The next entries of one partition; after the last ones a chunk without any, and then None."""
        if self._ended:
            self._wait(timeout)
            return None
        placed: list[Placed] = []
        for partition in self._in_turn():
            placed = list(islice(self._placed[partition], _ENTRIES_A_CHUNK))
            if len(placed) < _ENTRIES_A_CHUNK:
                del self._placed[partition]
            if placed:
                break
        self._ended = not self._placed
        return Chunk(tuple(self._reader.placed(placed)), frozenset(self._placed))

    def _in_turn(self) -> list[int]:
        """The partitions that may be read, another one first at each call."""
        self._turn += 1
        waiting = sorted(self._placed.keys() - self._held)
        at = self._turn % max(1, len(waiting))
        return waiting[at:] + waiting[:at]

    def hold(self, partitions: frozenset[int]) -> None:
        """Read no further in `partitions` until they are no longer named."""
        self._held = partitions

    def commit(self, positions: Mapping[int, Position]) -> None:
        """No one watches the lag of files."""

    def _of_partition(self, partition: int, start: Position) -> Iterator[Placed]:
        for span in self._spans:
            if span.partition == partition and span.end > start.offset:
                for placed in self._of_span(span):
                    if placed.position >= start:
                        yield placed

    def _of_span(self, span: Span) -> Iterator[Placed]:
        """Its blocks, and where messages had none, places without one."""
        partition, at = span.partition, Position(span.start)
        blocks = self._blocks(span)
        block = next(blocks, None)
        while block is not None:
            if block.position.offset > at.offset and block.position.within == 0:
                yield Placed(partition, at, block.position, None)
            following = next(blocks, None)
            at = Position(block.position.offset + 1)
            if following is not None and following.position.offset == block.position.offset:
                at = following.position
            yield Placed(partition, block.position, at, block.payload)
            block = following
        if at.offset < span.end:
            yield Placed(partition, at, Position(span.end), None)

    def _blocks(self, span: Span) -> Iterator[_Found]:
        """In the order of the topic, out of the files of all hours; a backfill's in the order of hours."""
        paths = files(self._folder, span)
        if self._history:
            payloads = (payload for path in paths for _, _, payload in _rows(path))
            return (_Found(Position(span.start + i), payload) for i, payload in enumerate(payloads))
        found = ((_Found(Position(o, w), payload) for o, w, payload in _rows(path)) for path in paths)
        return heapq.merge(*found, key=lambda found: found.position)

    def _never_in_the_topic(self) -> bool:
        kinds = set()
        for span in self._spans:
            for path in files(self._folder, span)[:1]:
                if SAMPLE_OFFSET not in pq.read_schema(path).names:
                    raise RecoveryError(f"{path}: of an earlier version; legal is a dump made anew")
                kinds.add(next(_rows(path))[0] is None)
        if len(kinds) > 1:
            raise RecoveryError(f"{self._folder}: of a dump and of a backfill; legal is one of them")
        return kinds == {True}


def _rows(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Offset, number in the message, and bytes of each block in a file, the first two None if not known."""
    with pq.ParquetFile(path) as file:
        columns = [SAMPLE_OFFSET, SAMPLE_WITHIN, BLOCK]
        for batch in file.iter_batches(batch_size=_ROWS_A_READ, columns=columns):
            for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                if row[2] is not None:
                    yield row

"""Sample blocks of requests that are said whole at their close, many at once, from the bytes that came.

How blocks are laid out its kernel knows; one that this cannot write is left to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming import cells
from streaming.emission import Emission
from streaming.kernels import blocks as written
from streaming.kernels import logs
from streaming.late import unpacked
from streaming.request import Request

ROWS_AT_MOST: Final = 64
"""A request of more is not written here."""

_COLUMNS: Final = 5
"""Bytes a pair takes in labels and mask."""

_A_ROW: Final = 6
"""Bytes a row takes in its number and log_keep."""


class Whole(msgspec.Struct, frozen=True, gc=False):
    """A request to be emitted whole at its close: no row was said before, none is dropped.

    Nothing follows on time. `hits` are its positive pairs.
    """

    request: Request
    packed: bytes
    hits: int


class Due(msgspec.Struct, frozen=True, gc=False):
    """One that has closed, and the other two of its block; see `SampleBlock`."""

    request: Request
    packed: bytes
    hits: int
    resolved_below: int
    completed_at: int


def emission_of(one: Whole | Due, tasks: int) -> Emission:
    """The emission that it stands for.

    Raises:
        LateStoreError: the bytes are no feature log.
    """
    head = unpacked(one.packed)
    return Emission(one.request, head, one.hits, cells.every(len(head), tasks))


class Written(NamedTuple):
    """Blocks as MessagePack, one behind the other in `out`: where each ends, and its user.

    One that has no bytes our codec did not write the log of. They last until their writer writes again.
    """

    out: memoryview
    ends: list[int]
    users: list[int]

    @property
    def whole(self) -> memoryview:
        """All of them."""
        return self.out[: self.ends[-1]]

    def pieces(self) -> Iterator[tuple[msgspec.Raw, int] | None]:
        """Each with its user."""
        begin = 0
        for end, user_id in zip(self.ends, self.users, strict=True):
            yield (msgspec.Raw(self.out[begin:end]), user_id) if end > begin else None
            begin = end


class WholeWriter:
    """Writes the blocks of one partition.

    Args:
        partition: its number.
        tasks: the names of the tasks, in the order of their bits.
    """

    def __init__(self, partition: int, tasks: tuple[str, ...]) -> None:
        self._partition = partition
        self._tasks = len(tasks)
        self._names = np.frombuffer(msgspec.msgpack.encode(tasks), np.uint8)
        self._parts = np.empty(logs.PARTS, np.int64)
        # one buffer for all calls: fresh memory costs more than what is written there
        self._out = np.empty(0, np.uint8)

    def write(self, packed: Sequence[bytes], facts: NDArray[np.int64], hits: NDArray[np.uint64]) -> Written:
        """The blocks of feature logs, with their `kernels.blocks` facts and positive pairs u8 (k, words)."""
        out = self._room(sum(map(len, packed)), len(packed))
        results = np.empty((written.RESULTS, len(packed)), np.int64)
        written.write(
            np.frombuffer(b"".join(packed), np.uint8), self._partition, facts, hits,
            self._names, self._tasks, self._parts, out, results,
        )  # fmt: skip
        return Written(memoryview(out.data), *results.tolist())

    def write_dues(self, dues: Sequence[Due]) -> Written:
        """As `write`."""
        packed = [due.packed for due in dues]
        facts = np.empty((len(dues), written.FACTS), np.int64)
        facts[:, written.LOG_SIZE] = list(map(len, packed))
        facts[:, written.OFFSET] = [due.request.offset for due in dues]
        facts[:, written.INDEX] = [due.request.index for due in dues]
        facts[:, written.RESOLVED] = [due.resolved_below for due in dues]
        facts[:, written.COMPLETED] = [due.completed_at for due in dues]
        words = self._tasks  # 64 pairs in each
        hits = b"".join([due.hits.to_bytes(8 * words, "little") for due in dues])
        return self.write(packed, facts, np.frombuffer(hits, np.uint64).reshape(len(dues), words))

    def _room(self, packed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        columns = ROWS_AT_MOST * (_COLUMNS * self._tasks + _A_ROW)
        size = packed + count * (columns + len(self._names) + written.ROOM)
        if len(self._out) < size:
            self._out = np.empty(2 * size, np.uint8)
        return self._out

"""The arrays of the table of requests, which grow as requests come. `kernels.table` says what they hold.

Owns them, and knows which slots are free; what lies in a slot is its user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import actions, table

_SLOTS: Final = 256
_WIDER_BY: Final = 8
_PLACES_A_SLOT: Final = 4
_CELLS: Final = 64
"""Pairs in a word of hits."""


class Told(NamedTuple):
    """What actions have made of a request: its positive pairs, the last one's offset, and those it owes."""

    hits: int
    last_action: int
    owed: list[int]


class Slots:
    """The table of one partition.

    Args:
        tasks: how many there are.
    """

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self._free = list(range(_SLOTS))
        self._nodes_left = 0
        self.totals = np.zeros(actions.TOTALS, np.int64)
        self.spare = self.totals[actions.FREE :]
        self.index = np.full(_SLOTS * _PLACES_A_SLOT, table.FREE, np.int32)
        self.slots = np.zeros((_SLOTS, table.COLUMNS), np.int64)
        self.ids = np.zeros(_SLOTS * table.ID_BYTES, np.uint8)
        self.items = np.zeros((_SLOTS, _WIDER_BY), np.int64)
        self.hits = self._blank_hits()
        self.owed = np.empty((0, 2), np.int64)
        self.offsets = np.empty(0, np.int64)

    def take(self, count: int, rows: int) -> list[int]:
        """So many free slots, for requests of up to `rows` rows."""
        self._make_room(count, rows)
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        return taken

    def give_back(self, slots: Sequence[int]) -> None:
        """These are free again, and not in the index."""
        self._free.extend(slots)

    def leave(self, chosen: Sequence[int]) -> list[Told]:
        """Take these out of the index, with what actions have made of each; they are not free yet."""
        said = np.empty((len(chosen), table.SAID + self.hits.shape[1]), np.uint64)
        count = table.leave(
            np.array(chosen, np.int64), self.index, self.slots, self.hits, self.owed, self.spare, said,
            self.offsets,
        )  # fmt: skip
        owed, begin, heard = self.unchained(count), 0, []
        for last, owes, *words in said.tolist():
            heard.append(Told(_joined(words), last - 1, owed[begin : begin + owes]))
            begin += owes
        return heard

    def unchained(self, count: int) -> list[int]:
        """The first of `offsets`: so many actions are owed no more."""
        self._nodes_left += count
        owed: list[int] = self.offsets[:count].tolist()
        return owed

    def chained(self, count: int) -> None:
        """So many actions more are owed."""
        self._nodes_left -= count

    def make_nodes(self, count: int) -> None:
        """Room for the offsets of so many actions more."""
        if self._nodes_left >= count:
            return
        size = len(self.owed)
        more = max(2 * size, size + count, 1024)
        # the new places in a row, the last of which is followed by what was free before
        fresh = np.zeros((more - size, 2), np.int64)
        fresh[:, 1] = np.arange(size + 1, more + 1)
        fresh[-1, 1] = self.spare[0]
        self.owed = np.concatenate([self.owed, fresh])
        self.offsets = np.empty(more, np.int64)
        self.spare[0] = size
        self._nodes_left += more - size

    def _make_room(self, count: int, rows: int) -> None:
        size, wide = self.items.shape
        if rows > wide:
            wide = -(-rows // _WIDER_BY) * _WIDER_BY
            self._resize(size, wide)
        more = size
        while len(self._free) + more - size < count:
            more *= 2
        if more > size:
            inside = self.index[self.index >= 0].astype(np.int64)
            self._resize(more, wide)
            self.index = np.full(more * _PLACES_A_SLOT, table.FREE, np.int32)
            table.spread(inside, self.index, self.slots)
            self._free.extend(range(size, more))

    def _resize(self, slots: int, wide: int) -> None:
        self.slots = grown(self.slots, (slots, table.COLUMNS))
        self.ids = grown(self.ids, (slots * table.ID_BYTES,))
        self.items = grown(self.items, (slots, wide))
        self.hits = grown(self.hits, self._blank_hits().shape)

    def _blank_hits(self) -> NDArray[np.uint64]:
        rows, wide = self.items.shape
        return np.zeros((rows, -(-wide * self._tasks // _CELLS)), np.uint64)


def _joined(words: Sequence[int]) -> int:
    """The integer of which these are 64 bits each, the lowest first."""
    return words[0] if len(words) == 1 else sum(word << _CELLS * at for at, word in enumerate(words))


def grown(part: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """`part` with zeros behind it in every direction."""
    larger = np.zeros(shape, part.dtype)
    larger[tuple(slice(n) for n in part.shape)] = part
    return larger

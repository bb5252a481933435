"""Messages of feature logs, read: which are sound, what is wrong with others, and heartbeats.

At once where our own codec wrote all of a message and nothing is wrong with it, record by record otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schema.codec import envelope_body
from schema.records import Heartbeat
from streaming import heads
from streaming.heads import Brief, Outlines, Seen
from streaming.kernels import logs as found

_ITEM: Final = 8


class Unsound(NamedTuple):
    """A feature log that cannot be used, and its place in the message."""

    packed: bytes
    position: int
    problem: str


class Sheaf(NamedTuple):
    """A message that was read at once, all of whose feature logs are sound; until the next one is read.

    `parts` is what `kernels.logs.parse` found in `value`; `logs` of its records are feature logs, of at most
    `widest` rows and with ids of at most `longest` bytes; the latest is of event time `newest`.
    """

    value: bytes
    parts: NDArray[np.int64]
    logs: int
    newest: int
    widest: int
    longest: int

    def names(self) -> list[bytes]:
        """The request id of each record; a heartbeat's means nothing."""
        places: list[list[int]] = self.parts[:, found.ID_AT : found.ID_SIZE + 1].tolist()
        value = self.value
        return [value[at : at + size] for at, size in places]

    def seen(self, done: NDArray[np.uint8] | None = None) -> list[Seen]:
        """The feature logs, but for those of which `done` (n,) is set."""
        value = self.value
        seen: list[Seen] = []
        rows: list[list[int]] = self.parts[:, : found.SEEN].tolist()
        for index, (start, end, id_at, id_size, time, items, shown) in enumerate(rows):
            if shown and (done is None or not done[index]):
                request_id = value[id_at : id_at + id_size].decode("ascii")
                brief = Brief(request_id, time, value[items : items + _ITEM * shown])
                seen.append((value[start:end], brief, index))
        return seen


class Told(NamedTuple):
    """The records of a message: of `beats` heartbeats the latest is `word`, -1 without any.

    The sound ones are `listed`, or `sheaf`.
    """

    listed: Sequence[Seen] = ()
    unsound: Sequence[Unsound] = ()
    beats: int = 0
    word: int = -1
    sheaf: Sheaf | None = None

    @property
    def sound(self) -> Sequence[Seen]:
        """Those that can be used, one by one."""
        return self.listed if self.sheaf is None else self.sheaf.seen()

    @property
    def records(self) -> int:
        """How many there are."""
        sound = len(self.listed) if self.sheaf is None else self.sheaf.logs
        return sound + len(self.unsound) + self.beats


class LogReader:
    """Reads the messages of one partition."""

    def __init__(self) -> None:
        self._outlines = Outlines()
        self._logs = np.empty((0, found.PARTS), np.int64)
        self._totals = np.empty(found.TOTALS, np.int64)

    def read(self, value: bytes | None) -> Told:
        """The records of a message.

        Raises:
            InvalidMessage: as `Codec.decode`.
        """
        body = envelope_body(value)
        told = None if value is None else self._at_once(value, len(value) - len(body))
        return self._one_by_one(value) if told is None else told

    def _at_once(self, value: bytes, begin: int) -> Told | None:
        if len(value) // found.LEAST_BYTES >= len(self._logs):
            self._logs = np.empty((2 * len(value) // found.LEAST_BYTES + 1, found.PARTS), np.int64)
        count = found.parse(np.frombuffer(value, np.uint8), begin, self._logs, self._totals)
        if count < 0:
            return None
        newest, beats, word, widest, longest = self._totals.tolist()
        sheaf = Sheaf(value, self._logs[:count], count - beats, newest, widest, longest)
        return Told(beats=beats, word=word, sheaf=sheaf)

    def _one_by_one(self, value: bytes | None) -> Told:
        sound: list[Seen] = []
        unsound: list[Unsound] = []
        beats, word = 0, -1
        for index, (packed, record) in enumerate(heads.read(value)):
            if isinstance(record, Heartbeat):
                beats, word = beats + 1, max(word, record.event_time)
                continue
            problem = self._outlines.problem(record, packed)
            if problem is None:
                sound.append((packed, record, index))
            else:
                unsound.append(Unsound(packed, index, problem))
        return Told(sound, unsound, beats, word)

"""Messages of feature logs, read: which are sound, what is wrong with others, and heartbeats.

At once where our own codec wrote all of a message and nothing is wrong with it, record by record otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from schema.codec import envelope_body
from schema.records import Heartbeat
from streaming import heads
from streaming.heads import Brief, Outlines, Seen
from streaming.kernels import logs as found


class Unsound(NamedTuple):
    """A feature log that cannot be used, and its place in the message."""

    packed: bytes
    position: int
    problem: str


class Told(NamedTuple):
    """The records of a message: of `beats` heartbeats the latest is `word`, -1 without any."""

    sound: Sequence[Seen]
    unsound: Sequence[Unsound] = ()
    beats: int = 0
    word: int = -1

    @property
    def records(self) -> int:
        """How many there are."""
        return len(self.sound) + len(self.unsound) + self.beats


class LogReader:
    """Reads the messages of one partition."""

    def __init__(self) -> None:
        self._outlines = Outlines()
        self._logs = np.empty((0, found.PARTS), np.int64)

    def read(self, value: bytes | None) -> Told:
        """The records of a message.

        Raises:
            InvalidMessage: as `Codec.decode`.
        """
        told = self._at_once(bytes(envelope_body(value)))
        return self._one_by_one(value) if told is None else told

    def _at_once(self, body: bytes) -> Told | None:
        if len(body) // found.LEAST_BYTES >= len(self._logs):
            self._logs = np.empty((2 * len(body) // found.LEAST_BYTES + 1, found.PARTS), np.int64)
        count = found.parse(np.frombuffer(body, np.uint8), self._logs)
        if count < 0:
            return None
        sound: list[Seen] = []
        beats, word = 0, -1
        rows = self._logs[:count, : found.SEEN].tolist()
        for index, (start, end, id_at, id_size, time, items, shown) in enumerate(rows):
            if shown:
                request_id = body[id_at : id_at + id_size].decode("ascii")
                sound.append(
                    (body[start:end], Brief(request_id, time, body[items : items + 8 * shown]), index)
                )
            else:
                beats, word = beats + 1, max(word, time)
        return Told(sound, (), beats, word)

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

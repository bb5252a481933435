"""The dead letters of one partition: what could not be used, where it lay and why. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from schema.codec import USER_ACTIONS
from schema.errors import InvalidMessage
from schema.records import ActionBatch, DeadLetter
from streaming import heads
from streaming.counts import Counts
from streaming.emission import Rejected
from streaming.parcels import PAYLOAD_BYTES, Letter
from streaming.watermark import Side

_WHOLE: Final = -1
"""The index in the dead letter of a message that could not be read at all."""


class LetterBox:
    """Letters that wait to be sent.

    Args:
        number: the partition.
        topics: the names of the two topics, by side.
        counts: where to count.
    """

    def __init__(self, number: int, topics: tuple[str, str], counts: Counts) -> None:
        self._number = number
        self._topics = topics
        self._counts = counts
        self._letters: list[Letter] = []

    def __len__(self) -> int:
        return len(self._letters)

    def take(self) -> list[Letter]:
        """The letters, in order, once."""
        letters, self._letters = self._letters, []
        return letters

    def whole(self, side: Side, offset: int, error: InvalidMessage, value: bytes) -> None:
        """A message that cannot be read."""
        self.add(side, (offset, _WHOLE), error.reason, error.detail, value)

    def log(self, place: tuple[int, int], reason: str, detail: str, packed: bytes) -> None:
        """A feature log that cannot be used."""
        self.add(Side.FEATURES, place, reason, detail, heads.envelope(packed))

    def actions(self, rejected: Iterable[Rejected]) -> None:
        """Actions that no label came of."""
        for arrival, reason, detail in ((r.arrival, r.reason, r.detail) for r in rejected):
            payload = USER_ACTIONS.encode([ActionBatch(arrival.user_id, (arrival.action,))])
            parked = arrival.action.request_id if arrival.parked else None
            self.add(Side.ACTIONS, (arrival.offset, arrival.position), reason, detail, payload, parked=parked)

    def add(
        self,
        side: Side,
        place: tuple[int, int],
        reason: str,
        detail: str,
        payload: bytes = b"",
        *,
        parked: str | None = None,
    ) -> None:
        """What lay at offset and index `place`; `parked` as in `Letter`."""
        offset, index = place
        topic, payload = self._topics[side], payload[:PAYLOAD_BYTES]
        record = DeadLetter(topic, self._number, offset, index, reason, detail, payload)
        self._letters.append(Letter(side, record, parked))
        self._counts.dead_letters[reason] += 1

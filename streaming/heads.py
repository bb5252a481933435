"""Feature logs as the join holds them: the few fields that it looks at, and the record's bytes as they came.

Knows the wire form of a record. That the features fit their impressions is seen by their outline: where one
log of that outline was sound, all are.
"""

from __future__ import annotations

import operator
from itertools import groupby
from struct import Struct
from typing import Final

import msgspec

from schema.codec import Codec
from schema.errors import InvalidMessage
from schema.records import FeatureLog, Features, Heartbeat, Id, IdColumn, Millis, Record

_RECORDS: Final[Codec[msgspec.Raw]] = Codec(msgspec.Raw)
_KEPT: Final = 4096


class Head(Record, frozen=True, array_like=True, tag=1, gc=False):
    """A `FeatureLog` whose model and features were not looked into."""

    request_id: str
    user_id: Id
    event_time: Millis
    surface: int
    model: msgspec.Raw
    items: bytes
    positions: bytes
    features: msgspec.Raw
    scores: bytes = b""
    propensities: bytes = b""
    origins: bytes = b""

    def __len__(self) -> int:
        return len(self.items) // 8


class Brief(msgspec.Struct, frozen=True, gc=False):
    """As much of a `FeatureLog` as the join looks at before it speaks of it."""

    request_id: str
    event_time: int
    items: bytes


Log = tuple[bytes, Head, int]
"""A feature log: packed, its head, and its index in the envelope."""

Seen = tuple[bytes, Head | Brief, int]
"""As `Log`, with its head or less."""

pack: Final = msgspec.msgpack.Encoder().encode
"""A feature log, whole or as its head, as bytes; what comes in an envelope is that already."""

unpack: Final = msgspec.msgpack.Decoder(Head).decode
"""The head of a packed feature log; raises msgspec.DecodeError."""

features_of: Final = msgspec.msgpack.Decoder(Features).decode
_whole: Final = msgspec.msgpack.Decoder(FeatureLog).decode
_either: Final = msgspec.msgpack.Decoder(Head | Heartbeat).decode


def read(value: bytes | None) -> list[tuple[bytes, Head | Heartbeat]]:
    """The records of a message of the feature logs, each with its own bytes.

    Raises:
        InvalidMessage: as `Codec.decode`.
    """
    packed = [bytes(raw) for raw in _RECORDS.decode(value)]
    try:
        return [(one, _either(one)) for one in packed]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidMessage("schema", str(error)) from error


def envelope(packed: bytes) -> bytes:
    """A message that holds one packed record."""
    return _RECORDS.encode([msgspec.Raw(packed)])


class Outlines:
    """Tells sound feature logs from others, and remembers the outlines of the sound ones.

    An outline is all of the packed features but the ids and dense values themselves: the lengths and kinds.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[Struct, tuple[bytes, ...]]] = {}

    def problem(self, head: Head, packed: bytes) -> str | None:
        """What is wrong with the columns, or None."""
        raw = head.features
        sizes = (
            len(raw),
            len(head.items),
            len(head.positions),
            len(head.scores),
            len(head.propensities),
            len(head.origins),
        )
        outline = self._known.get(sizes)
        if outline is not None and outline[0].unpack(memoryview(raw)) == outline[1]:
            return None
        try:
            log = _whole(packed)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"features: {error}"
        problem = log.problem()
        if problem is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[sizes] = _outline(log.features)
        return problem


def _outline(features: Features) -> tuple[Struct, tuple[bytes, ...]]:
    """How to take the outline out of packed features, and what it is."""
    empty, full = (pack(_filled(features, byte)) for byte in (b"\0", b"\xff"))
    fixed = map(operator.eq, empty, full)
    form = Struct("".join(f"{len(list(run))}{'s' if same else 'x'}" for same, run in groupby(fixed)))
    return form, form.unpack(empty)


def _filled(features: Features, byte: bytes) -> Features:
    def fill(columns: tuple[IdColumn, ...]) -> tuple[IdColumn, ...]:
        return tuple(IdColumn(c.slot, byte * len(c.ids), c.lengths) for c in columns)

    context, item = len(features.context_dense), len(features.item_dense)
    return Features(fill(features.context), fill(features.items), byte * context, byte * item)

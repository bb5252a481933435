"""The one codec of the wire: an envelope of records, led by a version byte and guarded by a checksum.

    byte 0       the version, now 1
    bytes 1-4    CRC-32 of the rest, little-endian
    bytes 5-     MessagePack: an array of records, each an array led by its tag

A reader accepts every version that has been written. The actions topic also accepts a JSON object, which
no version byte can be mistaken for, so that any client can send one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec
from isal import isal_zlib

from schema.errors import InvalidMessage
from schema.records import (
    Action,
    ActionBatch,
    DeadLetter,
    FeatureLog,
    Heartbeat,
    Id,
    Millis,
    Profile,
    SampleBlock,
)

VERSION: Final = 1
_HEADER: Final = 5

R = TypeVar("R")


class Codec(Generic[R]):
    """Encodes and decodes the envelopes of one topic.

    Args:
        types: the union of record types that the topic carries.
    """

    def __init__(self, types: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[types])

    def encode(self, records: Sequence[R]) -> bytes:
        """One message holding `records` in order."""
        return sealed(self._encoder.encode(records))

    def decode(self, data: bytes | None) -> list[R]:
        """The records of a message.

        Raises:
            InvalidMessage: the bytes are not a whole, unaltered envelope of this topic's records.
        """
        return self.records(envelope_body(data))

    def records(self, body: bytes | memoryview) -> list[R]:
        """The records of a message whose `body` is this.

        Raises:
            InvalidMessage: they are not this topic's.
        """
        try:
            records: list[R] = self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidMessage("schema", str(error)) from error
        return records


def sealed(*body: bytes | memoryview) -> bytes:
    """The envelope of a `body` of these parts, one behind the other."""
    checksum = 0
    for part in body:
        checksum = isal_zlib.crc32(part, checksum)
    return b"".join((b"%c%b" % (VERSION, checksum.to_bytes(4, "little")), *body))


def array_head(count: int) -> bytes:
    """What MessagePack puts before the elements of an array of less than 65,536."""
    return bytes([0x90 + count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")  # noqa: PLR2004 - its form


def envelope_body(data: bytes | None) -> memoryview:
    """The MessagePack of an envelope.

    Raises:
        InvalidMessage: the bytes are not a whole, unaltered envelope.
    """
    if not data:
        raise InvalidMessage("empty", "the message has no bytes")
    if data[0] != VERSION:
        raise InvalidMessage("version", f"version byte {data[0]}; legal is {VERSION}")
    if len(data) < _HEADER:
        raise InvalidMessage("truncated", f"{len(data)} bytes; an envelope has at least {_HEADER}")
    body = memoryview(data)[_HEADER:]
    if isal_zlib.crc32(body) != int.from_bytes(data[1:_HEADER], "little"):
        raise InvalidMessage(
            "checksum", f"the {len(body)} bytes after the header do not match their checksum"
        )
    return body


class _ActionJson(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    item_id: Id
    kind: str
    event_time: Millis
    value: float = 1.0


class _ActionBatchJson(msgspec.Struct, forbid_unknown_fields=True):
    user_id: Id
    actions: list[_ActionJson]


class ActionCodec(Codec["ActionBatch | Heartbeat"]):
    """The codec of the actions topic, which also reads `{"user_id": 7, "actions": [{…}]}`."""

    def __init__(self) -> None:
        super().__init__(ActionBatch | Heartbeat)
        self._json = msgspec.json.Decoder(_ActionBatchJson)

    @staticmethod
    def is_json(data: bytes | None) -> bool:
        """Whether a message is read as JSON: it starts with an opening brace."""
        return data is not None and data[:1] == b"{"

    def decode(self, data: bytes | None) -> list[ActionBatch | Heartbeat]:
        """As Codec.decode, and of JSON, too."""
        if data and self.is_json(data):
            try:
                batch = self._json.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidMessage("schema", str(error)) from error
            actions = tuple(
                Action(a.request_id, a.item_id, a.kind, a.event_time, a.value) for a in batch.actions
            )
            return [ActionBatch(batch.user_id, actions)]
        return super().decode(data)


FEATURE_LOGS: Final[Codec[FeatureLog | Heartbeat]] = Codec(FeatureLog | Heartbeat)
USER_ACTIONS: Final = ActionCodec()
TRAINING_SAMPLES: Final[Codec[SampleBlock]] = Codec(SampleBlock)
DEAD_LETTERS: Final[Codec[DeadLetter]] = Codec(DeadLetter)
CATALOGUE: Final[Codec[Profile]] = Codec(Profile)

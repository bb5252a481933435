"""What leaves a partition: envelopes of sample blocks or dead letters, and what their delivery settles.

Knows the codecs; knows nothing of producers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from schema.codec import DEAD_LETTERS, TRAINING_SAMPLES, Codec, array_head, sealed
from schema.ids import user_key
from schema.records import DeadLetter, SampleBlock
from streaming.request import Request
from streaming.watermark import Side
from streaming.whole import Written

ENVELOPE_RECORDS: Final = 64
ENVELOPE_BYTES: Final = 512 << 10
PAYLOAD_BYTES: Final = 256 << 10
"""A dead letter keeps at most this much of what could not be used."""

_HEAD_BYTES: Final = 8
"""What an envelope has beside its blocks."""

T = TypeVar("T")

_BLOCKS: Final[Codec[SampleBlock | msgspec.Raw]] = Codec(msgspec.Raw)


class Letter(NamedTuple):
    """A dead letter and the topic whose message it settles.

    `parked`: the request of a parked action, whose message has been settled.
    """

    side: Side
    record: DeadLetter
    parked: str | None = None


class Made(msgspec.Struct, frozen=True, gc=False):
    """A sample block, perhaps as MessagePack already, its request and user, and its `late_offset`.

    A request that is no more than a slot of the register is that.
    """

    block: SampleBlock | msgspec.Raw
    request: Request | int
    user_id: int
    late: int = -1


class Blocks(NamedTuple):
    """Sample blocks in an envelope, in order, with the request and `late_offset` of each."""

    key: bytes
    value: bytes
    requests: list[Request | int]
    lates: list[int]

    @property
    def blocks(self) -> list[SampleBlock]:
        """The blocks, out of the envelope."""
        return TRAINING_SAMPLES.decode(self.value)


class Letters(NamedTuple):
    """Dead letters in an envelope."""

    key: bytes
    value: bytes
    letters: list[Letter]


Parcel = Blocks | Letters


def pack_blocks(made: Sequence[Made]) -> Iterator[Blocks]:
    """Envelopes of the blocks, in order."""

    def encode(part: Sequence[Made]) -> bytes:
        return _BLOCKS.encode([one.block for one in part])

    for part, value in _pack(made, encode):
        yield Blocks(user_key(part[0].user_id), value, [m.request for m in part], [m.late for m in part])


def pack_plain(slots: Sequence[int], written: Written) -> Blocks | None:
    """The envelope of the blocks of requests that are but slots; None if they are too many bytes for one."""
    blocks = written.whole
    if len(blocks) > ENVELOPE_BYTES - _HEAD_BYTES:
        return None
    value = sealed(array_head(len(slots)), blocks)
    return Blocks(user_key(written.users[0]), value, list(slots), [-1] * len(slots))


def pack_letters(letters: Sequence[Letter]) -> Iterator[Letters]:
    """Envelopes of the dead letters, in order."""

    def encode(part: Sequence[Letter]) -> bytes:
        return DEAD_LETTERS.encode([letter.record for letter in part])

    for part, value in _pack(letters, encode):
        record = part[0].record
        yield Letters(f"{record.topic}-{record.partition}".encode(), value, list(part))


def _pack(items: Sequence[T], encode: Callable[[Sequence[T]], bytes]) -> Iterator[tuple[Sequence[T], bytes]]:
    for start in range(0, len(items), ENVELOPE_RECORDS):
        yield from _bounded(items[start : start + ENVELOPE_RECORDS], encode)


def _bounded(
    items: Sequence[T], encode: Callable[[Sequence[T]], bytes]
) -> Iterator[tuple[Sequence[T], bytes]]:
    value = encode(items)
    if len(value) <= ENVELOPE_BYTES or len(items) == 1:
        yield items, value
        return
    half = len(items) // 2
    yield from _bounded(items[:half], encode)
    yield from _bounded(items[half:], encode)

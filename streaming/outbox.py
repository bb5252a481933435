"""What a partition's join has emitted, until it leaves as sample blocks in envelopes.

Blocks of whole requests are written many at once, when they leave. Knows neither producers nor offsets to be
acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from streaming.blocks import BlockMaker
from streaming.counts import Counts
from streaming.emission import Emission
from streaming.parcels import ENVELOPE_RECORDS, Blocks, Made, pack_blocks, pack_plain
from streaming.register import Closed, Register
from streaming.request import Request
from streaming.sampling import Sampler
from streaming.whole import Due, Whole, WholeWriter, emission_of

Pieces = Iterator[tuple[msgspec.Raw, int] | None]


class Stamp(NamedTuple):
    """What blocks say besides their rows: `resolved_below` on time and late, and `completed_at`."""

    on_time: int
    late: int
    completed_at: int


class Outbox:
    """The blocks of one partition that wait.

    Args:
        number: the partition.
        tasks: the names of the tasks, in the order of their bits.
        sampler: knows with what probability a row was kept.
        register: where requests lie that are but slots.
        counts: where to count.
    """

    def __init__(
        self, number: int, tasks: tuple[str, ...], *, sampler: Sampler, register: Register, counts: Counts
    ) -> None:
        self._tasks = len(tasks)
        self._maker = BlockMaker(number, tasks, sampler)
        # each has its buffer, and blocks of both may leave in one envelope
        self._writer, self._plain_writer = WholeWriter(number, tasks), WholeWriter(number, tasks)
        self._register = register
        self._counts = counts
        self._blocks: list[Made | Due | int] = []

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, items: Sequence[Emission | Whole | Request | Closed], stamp: Stamp) -> list[int]:
        """The join emitted these.

        Returns:
            The offsets of the feature logs of which nothing follows on time.
        """
        blocks, before = self._blocks, len(self._blocks)
        closed: list[int] = []
        whole = 0
        for item in items:
            if isinstance(item, Closed):
                blocks += item.slots
                whole += sum(item.rows)
                closed += item.offsets
            elif isinstance(item, Whole):
                request = item.request
                blocks.append(Due(request, item.packed, item.hits, stamp.on_time, stamp.completed_at))
                whole += len(request)
                closed.append(request.offset)
            elif isinstance(item, Request):
                closed.append(item.offset)
            else:
                blocks.append(self._block_of(item, stamp))
        if whole:
            self._counts.rows["close"] += whole
        self._counts.blocks += len(blocks) - before
        return closed

    def take(self) -> Iterator[Blocks]:
        """All of them, in order."""
        blocks, self._blocks = self._blocks, []
        for start in range(0, len(blocks), ENVELOPE_RECORDS):
            yield from self._packed(blocks[start : start + ENVELOPE_RECORDS])

    def _block_of(self, emission: Emission, stamp: Stamp) -> Made:
        late, request = emission.late >= 0, emission.request
        block = self._maker.make(emission, stamp.late if late else stamp.on_time, stamp.completed_at)
        self._counts.rows["late" if late else "early" if request.open else "close"] += len(block)
        return Made(block, request, block.user_id, emission.late)

    def _packed(self, blocks: Sequence[Made | Due | int]) -> Iterator[Blocks]:
        slots = [one for one in blocks if isinstance(one, int)]
        if not slots:
            yield from pack_blocks(self._made(blocks, iter(())))
            return
        plain = self._plain_writer.write(*self._register.facts(slots))
        parcel = pack_plain(slots, plain) if len(slots) == len(blocks) else None
        if parcel is not None:
            yield parcel
        else:
            yield from pack_blocks(self._made(blocks, plain.pieces()))

    def _made(self, blocks: Sequence[Made | Due | int], plain: Pieces) -> list[Made]:
        """All as blocks; `plain` are those of requests that are but slots."""
        dues = [one for one in blocks if isinstance(one, Due)]
        due = self._writer.write_dues(dues).pieces() if dues else iter(())
        made: list[Made] = []
        for one in blocks:
            if isinstance(one, int):
                made.append(_of_slot(one, next(plain)))
            else:
                made.append(self._of_due(one, next(due)) if isinstance(one, Due) else one)
        return made

    def _of_due(self, due: Due, written: tuple[msgspec.Raw, int] | None) -> Made:
        if written is not None:
            block, user_id = written
            return Made(block, due.request, user_id)
        whole = emission_of(due, self._tasks)
        made = self._maker.make(whole, due.resolved_below, due.completed_at)
        return Made(made, due.request, made.user_id)


def _of_slot(slot: int, written: tuple[msgspec.Raw, int] | None) -> Made:
    if written is None:
        raise AssertionError(f"slot {slot}: its feature log was read, and cannot be")
    block, user_id = written
    return Made(block, slot, user_id)

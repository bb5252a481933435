"""Sample blocks out of emissions: the rows spoken for, their labels, masks and columns."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

from schema.records import Features, SampleBlock, Source
from schema.records import cells as cells_at
from streaming import cells
from streaming.emission import Emission
from streaming.heads import features_of
from streaming.sampling import Sampler, log_keep


class BlockMaker:
    """Makes the blocks of one partition.

    Args:
        partition: its number.
        tasks: the names of the tasks, in the order of their bits.
        sampler: knows with what probability a row was kept.
    """

    def __init__(self, partition: int, tasks: tuple[str, ...], sampler: Sampler) -> None:
        self._partition = partition
        self._tasks = tasks
        self._sampler = sampler

    def make(self, emission: Emission, resolved_below: int, completed_at: int) -> SampleBlock:
        """The block of `emission`; see `SampleBlock` for the other two.

        Of a whole request the features are the bytes that came, which the encoder writes as they are.
        """
        head, tasks = emission.head, len(self._tasks)
        rows = len(head)
        whole = emission.mask == cells.every(rows, tasks)
        kept: Sequence[int] = range(rows) if whole else cells.rows_in(emission.mask, tasks)
        labels, mask, retract = emission.labels, emission.mask, emission.retract
        if not whole:
            labels, mask, retract = (cells.gather(some, kept, tasks) for some in (labels, mask, retract))

        def of_kept(column: bytes) -> bytes:
            return column if whole else cells_at(column, kept, len(column) // rows)

        return SampleBlock(
            self._source(emission),
            resolved_below,
            completed_at,
            head.request_id,
            head.user_id,
            head.event_time,
            head.surface,
            self._tasks,
            _every_row(rows) if whole else struct.pack(f"<{len(kept)}H", *kept),
            of_kept(head.items),
            of_kept(head.positions),
            cast("Features", head.features) if whole else features_of(head.features).narrowed(kept, rows),
            cells.labels(labels, len(kept), tasks),
            cells.flags(mask, len(kept), tasks),
            self._log_keep(emission, kept),
            of_kept(head.scores),
            cells.flags(retract, len(kept), tasks) if retract else b"",
            emission.late,
            of_kept(head.propensities),
        )

    def _source(self, emission: Emission) -> Source:
        return Source(self._partition, emission.request.offset, emission.request.index)

    def _log_keep(self, emission: Emission, kept: Sequence[int]) -> bytes:
        if not self._sampler.active:
            return _all_kept(len(kept))
        probabilities = self._sampler.probabilities(emission.head, emission.request.mean)
        return log_keep([probabilities[row] for row in kept])


@lru_cache(maxsize=4096)
def _all_kept(n: int) -> bytes:
    return bytes(4 * n)


@lru_cache(maxsize=4096)
def _every_row(n: int) -> bytes:
    return struct.pack(f"<{n}H", *range(n))

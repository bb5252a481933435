"""Sample blocks out of emissions: the rows spoken for, their labels, masks and columns."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache

from schema.records import FeatureLog, Features, IdColumn, SampleBlock, Source
from streaming.join import Emission
from streaming.request import Bits
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
        """The block of `emission`; see `SampleBlock` for the other two."""
        request, log = emission.request, emission.log
        rows, tasks = len(log), len(self._tasks)
        kept: Sequence[int] = range(rows) if emission.mask is None else sorted(emission.mask)
        whole = len(kept) == rows
        return SampleBlock(
            source=Source(self._partition, request.offset, request.index),
            resolved_below=resolved_below,
            completed_at=completed_at,
            request_id=log.request_id,
            user_id=log.user_id,
            event_time=log.event_time,
            surface=log.surface,
            tasks=self._tasks,
            rows=_every_row(rows) if whole else struct.pack(f"<{len(kept)}H", *kept),
            items=log.items if whole else _cells(log.items, kept, 8),
            positions=log.positions if whole else _cells(log.positions, kept, 2),
            features=log.features if whole else _features(log, kept),
            labels=_labels(emission.labels, kept, tasks),
            mask=_ones(rows * tasks) if emission.mask is None else _flags(emission.mask, kept, tasks),
            log_keep=self._log_keep(emission, kept),
            scores=log.scores
            if whole or not log.scores
            else _cells(log.scores, kept, len(log.scores) // rows),
            retract=_flags(emission.retract, kept, tasks) if emission.retract else b"",
            late_offset=emission.late,
        )

    def _log_keep(self, emission: Emission, kept: Sequence[int]) -> bytes:
        if not self._sampler.active:
            return bytes(4 * len(kept))
        probabilities = self._sampler.probabilities(emission.log, emission.request.mean)
        return log_keep([probabilities[row] for row in kept])


@lru_cache(maxsize=4096)
def _every_row(n: int) -> bytes:
    return struct.pack(f"<{n}H", *range(n))


@lru_cache(maxsize=4096)
def _ones(n: int) -> bytes:
    return b"\x01" * n


def _labels(hits: Bits, kept: Sequence[int], tasks: int) -> bytes:
    if not hits:
        return bytes(4 * len(kept) * tasks)
    return b"".join([_label_row(hits.get(row, 0), tasks) for row in kept])


def _flags(bits: Bits, kept: Sequence[int], tasks: int) -> bytes:
    return b"".join([_flag_row(bits.get(row, 0), tasks) for row in kept])


@lru_cache(maxsize=4096)
def _label_row(bits: int, tasks: int) -> bytes:
    return struct.pack(f"<{tasks}f", *(bits >> task & 1 for task in range(tasks)))


@lru_cache(maxsize=4096)
def _flag_row(bits: int, tasks: int) -> bytes:
    return bytes(bits >> task & 1 for task in range(tasks))


def _cells(column: bytes, rows: Sequence[int], size: int) -> bytes:
    if len(rows) == 1:  # every late positive
        return column[rows[0] * size : (rows[0] + 1) * size]
    return b"".join([column[row * size : (row + 1) * size] for row in rows])


def _features(log: FeatureLog, rows: Sequence[int]) -> Features:
    features, n = log.features, len(log)
    dense = features.item_dense
    return Features(
        features.context,
        tuple(_column(c, rows, n) for c in features.items),
        features.context_dense,
        _cells(dense, rows, len(dense) // n) if dense else dense,
    )


def _column(column: IdColumn, rows: Sequence[int], n: int) -> IdColumn:
    if not column.lengths:
        return IdColumn(column.slot, _cells(column.ids, rows, 8))
    ends = [0]
    for length in struct.unpack(f"<{n}H", column.lengths):
        ends.append(ends[-1] + 8 * length)
    ids = b"".join([column.ids[ends[row] : ends[row + 1]] for row in rows])
    return IdColumn(column.slot, ids, _cells(column.lengths, rows, 2))

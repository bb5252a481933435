"""Sample blocks out of closed requests: labels, masks and the columns that pass through untouched."""

from __future__ import annotations

import struct
from functools import lru_cache

from schema.records import SampleBlock, Source
from streaming.join import Request

_ONE = struct.pack("<f", 1.0)


def block(
    request: Request, tasks: tuple[str, ...], partition: int, resolved_below: int, completed_at: int
) -> SampleBlock:
    """All impressions of a closed request with every label, as one block.

    Args:
        request: the request; its rows are those of its feature log.
        tasks: the names of the tasks, in the order of their bits.
        partition: the partition of the feature log.
        resolved_below: every feature log at a lower offset was emitted before this block.
        completed_at: when Kafka had what completed the labels, Unix ms.
    """
    log = request.log
    rows, mask, log_keep = _constant_columns(len(log), len(tasks))
    return SampleBlock(
        source=Source(partition, request.offset, request.index),
        resolved_below=resolved_below,
        completed_at=completed_at,
        request_id=log.request_id,
        user_id=log.user_id,
        event_time=log.event_time,
        surface=log.surface,
        tasks=tasks,
        rows=rows,
        items=log.items,
        positions=log.positions,
        features=log.features,
        labels=_labels(request, len(tasks)),
        mask=mask,
        log_keep=log_keep,
        scores=log.scores,
    )


@lru_cache(maxsize=4096)
def _constant_columns(n: int, tasks: int) -> tuple[bytes, bytes, bytes]:
    return struct.pack(f"<{n}H", *range(n)), b"\x01" * (n * tasks), bytes(4 * n)


def _labels(request: Request, tasks: int) -> bytes:
    labels = bytearray(4 * len(request.log) * tasks)
    for row, bits in _hits(request).items():
        for task in range(tasks):
            if bits >> task & 1:
                at = 4 * (row * tasks + task)
                labels[at : at + 4] = _ONE
    return bytes(labels)


def _hits(request: Request) -> dict[int, int]:
    """Hits by row; an item shown twice in a request is positive in both places."""
    if not request.hits or request.rows is None or len(request.rows) == len(request.log):
        return request.hits
    rows = (request.row_of(item) for item in request.log.item_ids().tolist())
    return {row: request.hits.get(first, 0) for row, first in enumerate(rows) if first is not None}

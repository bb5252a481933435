"""Sample blocks as Parquet: a table row for a training row, a file for an hour and a span of offsets.

Knows Arrow and files, no Kafka. A file's name states what it holds, so what is on disk says where to go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schema.codec import TRAINING_SAMPLES
from schema.dump import BLOCK, SAMPLE_OFFSET, SAMPLE_WITHIN, Span, files, positions, spans
from schema.records import SampleBlock

__all__ = ["SCHEMA", "Place", "Span", "positions", "read", "spans", "write"]

Place = tuple[int, int] | None
"""The offset of a block's message in the samples topic, and its number in it; None if it never was there."""

_HOUR_MS: Final = 3_600_000


def _schema() -> pa.Schema:
    time, numbers = pa.timestamp("ms", tz="UTC"), pa.list_(pa.uint8())
    columns: dict[str, pa.DataType] = {
        "partition": pa.int32(),
        "offset": pa.int64(),
        "index": pa.int32(),
        "row": pa.int32(),
        "late_offset": pa.int64(),
        "completed_at": time,
        "event_time": time,
        "request_id": pa.string(),
        "user_id": pa.int64(),
        "surface": pa.int32(),
        "item_id": pa.int64(),
        "position": pa.int32(),
        "log_keep": pa.float32(),
        # null where it is not known
        "propensity": pa.float32(),
        "tasks": pa.list_(pa.string()),
        "labels": pa.list_(pa.float32()),
        "mask": numbers,
        "retract": numbers,
        # the block as it was sent, on its first row: what a trainer reads
        BLOCK: pa.binary(),
        SAMPLE_OFFSET: pa.int64(),
        SAMPLE_WITHIN: pa.int32(),
    }
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


SCHEMA: Final = _schema()


def write(
    folder: Path, span: Span, blocks: Sequence[SampleBlock], places: Sequence[Place] | None = None
) -> None:
    """Write the files of `span`: one for each hour of event time, then, last, the word that it is complete.

    Every file appears whole or not at all, and the same span gives the same bytes. `places`, one a block, are
    where the blocks lie in the samples topic, if they do.
    """
    hours: dict[int, list[tuple[SampleBlock, Place]]] = {}
    for block, place in zip(blocks, places or [None] * len(blocks), strict=True):
        hours.setdefault(block.event_time // _HOUR_MS, []).append((block, place))
    name = span.file_name
    for hour, some in sorted(hours.items()):
        when = datetime.fromtimestamp(hour * _HOUR_MS / 1000, UTC)
        _replace(folder / f"date={when:%Y-%m-%d}" / f"hour={when:%H}" / name, _table(some))
    _replace(folder / "_spans" / name, SCHEMA.empty_table())


def read(folder: Path) -> Iterator[SampleBlock]:
    """All blocks that were written completely, by hour; files of spans that were not are left out."""
    for path in sorted(path for span in spans(folder) for path in files(folder, span)):
        for value in pq.read_table(path, columns=[BLOCK])[BLOCK]:
            if value.is_valid:
                yield from TRAINING_SAMPLES.decode(value.as_py())


def _replace(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    pq.write_table(table, scratch, compression="zstd")
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(path)


def _table(placed: Iterable[tuple[SampleBlock, Place]]) -> pa.Table:
    return pa.Table.from_pylist([row for block, at in placed for row in _rows(block, at)], schema=SCHEMA)


def _rows(block: SampleBlock, place: Place) -> Iterator[dict[str, object]]:
    source = block.source
    columns = zip(
        block.row_indices().tolist(),
        block.item_ids().tolist(),
        block.position_values().tolist(),
        np.frombuffer(block.log_keep, "<f4").tolist(),
        np.frombuffer(block.propensities, "<f4").tolist() or [None] * len(block),
        block.label_matrix().tolist(),
        block.mask_matrix().tolist(),
        block.retract_matrix().tolist(),
        strict=True,
    )
    packed: bytes | None = TRAINING_SAMPLES.encode([block])
    for row, item, position, log_keep, propensity, labels, mask, retract in columns:
        yield {
            "partition": source.partition,
            "offset": source.offset,
            "index": source.index,
            "row": row,
            "late_offset": block.late_offset,
            "completed_at": block.completed_at,
            "event_time": block.event_time,
            "request_id": block.request_id,
            "user_id": block.user_id,
            "surface": block.surface,
            "item_id": item,
            "position": position,
            "log_keep": log_keep,
            "propensity": propensity,
            "tasks": list(block.tasks),
            "labels": labels,
            "mask": mask,
            "retract": retract,
            BLOCK: packed,
            SAMPLE_OFFSET: None if place is None else place[0],
            SAMPLE_WITHIN: None if place is None else place[1],
        }
        packed = None

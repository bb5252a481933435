"""Sample blocks as Parquet: a table row for a training row, a file for an hour and a span of offsets.

Knows Arrow and files, no Kafka. A file's name states what it holds, so what is on disk says where to go on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schema.codec import TRAINING_SAMPLES
from schema.records import SampleBlock

_NAME: Final = re.compile(r"p(\d{5})-(\d{20})-(\d{20})\.parquet")
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
        "tasks": pa.list_(pa.string()),
        "labels": pa.list_(pa.float32()),
        "mask": numbers,
        "retract": numbers,
        # the block as it was sent, on its first row: what a trainer reads
        "block": pa.binary(),
    }
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


SCHEMA: Final = _schema()


class Span(NamedTuple):
    """Offsets of a partition of the samples topic, from `start` up to but without `end`."""

    partition: int
    start: int
    end: int


def write(folder: Path, span: Span, blocks: Sequence[SampleBlock]) -> None:
    """Write the files of `span`: one for each hour of event time, then, last, the word that it is complete.

    Every file appears whole or not at all, and the same span gives the same bytes.
    """
    hours: dict[int, list[SampleBlock]] = {}
    for block in blocks:
        hours.setdefault(block.event_time // _HOUR_MS, []).append(block)
    name = f"p{span.partition:05d}-{span.start:020d}-{span.end:020d}.parquet"
    for hour, some in sorted(hours.items()):
        when = datetime.fromtimestamp(hour * _HOUR_MS / 1000, UTC)
        _replace(folder / f"date={when:%Y-%m-%d}" / f"hour={when:%H}" / name, _table(some))
    _replace(folder / "_spans" / name, SCHEMA.empty_table())


def spans(folder: Path) -> list[Span]:
    """What has been written completely, in order."""
    found = (_NAME.fullmatch(path.name) for path in (folder / "_spans").glob("*.parquet"))
    return sorted(Span(*map(int, match.groups())) for match in found if match)


def positions(folder: Path) -> dict[int, int]:
    """The offset at which each partition goes on."""
    ends: dict[int, int] = {}
    for span in spans(folder):
        ends[span.partition] = max(span.end, ends.get(span.partition, 0))
    return ends


def read(folder: Path) -> Iterator[SampleBlock]:
    """All blocks that were written completely, by hour; files of spans that were not are left out."""
    complete = {f"p{s.partition:05d}-{s.start:020d}-{s.end:020d}.parquet" for s in spans(folder)}
    for path in sorted(folder.glob("date=*/hour=*/*.parquet")):
        if path.name in complete:
            for value in pq.read_table(path, columns=["block"])["block"]:
                if value.is_valid:
                    yield from TRAINING_SAMPLES.decode(value.as_py())


def _replace(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    pq.write_table(table, scratch, compression="zstd")
    with scratch.open("rb") as written:
        os.fsync(written.fileno())
    scratch.replace(path)


def _table(blocks: Iterable[SampleBlock]) -> pa.Table:
    return pa.Table.from_pylist([row for block in blocks for row in _rows(block)], schema=SCHEMA)


def _rows(block: SampleBlock) -> Iterator[dict[str, object]]:
    source = block.source
    columns = zip(
        block.row_indices().tolist(),
        block.item_ids().tolist(),
        block.position_values().tolist(),
        np.frombuffer(block.log_keep, "<f4").tolist(),
        block.label_matrix().tolist(),
        block.mask_matrix().tolist(),
        block.retract_matrix().tolist(),
        strict=True,
    )
    packed: bytes | None = TRAINING_SAMPLES.encode([block])
    for row, item, position, log_keep, labels, mask, retract in columns:
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
            "tasks": list(block.tasks),
            "labels": labels,
            "mask": mask,
            "retract": retract,
            "block": packed,
        }
        packed = None

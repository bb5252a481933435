"""`python -m streaming.backfill CONFIG.yaml --out FOLDER`: the same join over history, into Parquet files.

Reads both topics from their beginning to where they ended at the start, or with --history files that hold
messages as (length <u4, bytes) in FOLDER/TOPIC-PARTITION. The same input gives the same bytes: the order of
messages follows from their event times alone, and no clock is asked.
"""

from __future__ import annotations

import logging
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from kafka import TopicPartition

from runtime import logs
from runtime.command import run
from runtime.kafka import consumer, wait_for_broker
from schema.codec import FEATURE_LOGS, USER_ACTIONS, Codec
from schema.config import Config
from schema.config_file import load_config
from schema.dump import Span
from schema.errors import ConfigError, InvalidMessage
from schema.records import ActionBatch, Heartbeat, SampleBlock
from streaming.counts import Counts
from streaming.parcels import Blocks
from streaming.parquet import write
from streaming.partition import Message, Partition, Timing
from streaming.rocks import RocksStore
from streaming.rules import Rules
from streaming.sampling import Sampler
from streaming.watermark import Side

_log = logging.getLogger(__name__)

_FOREVER: Final = (1 << 53) - 1
_BROKER_SECONDS: Final = 30.0
_ROWS: Final = 200_000


class Stamped(NamedTuple):
    """A message and the highest event time in it, -1 if it has none."""

    event_time: int
    value: bytes | None


def join(
    config: Config, number: int, sides: tuple[Iterable[bytes | None], Iterable[bytes | None]], folder: Path
) -> Iterator[SampleBlock]:
    """All blocks of partition `number`, out of the messages of both its topics in order.

    Args:
        config: the deployment.
        number: the partition.
        sides: feature logs and actions.
        folder: for the late store; empty.
    """
    streaming, rules = config.streaming, Rules.of(config.streaming, config.tasks)
    store = RocksStore(folder, keep_seconds=_FOREVER // 1000 // 1000)
    partition = Partition(
        number,
        (config.kafka.topics.feature_logs.name, config.kafka.topics.user_actions.name),
        rules,
        Timing(round(streaming.disorder_seconds * 1000), _FOREVER),
        sampler=Sampler(streaming.sampling, rules.tasks),
        store=store,
        counts=Counts(),
        now=0,
    )
    end = Heartbeat(_FOREVER)
    streams = (
        _stamped([*sides[Side.FEATURES], FEATURE_LOGS.encode([end])], FEATURE_LOGS),
        _stamped([*sides[Side.ACTIONS], USER_ACTIONS.encode([end])], USER_ACTIONS),
    )
    offsets = [0, 0]
    for side, message in _merged(streams):
        partition.receive(side, Message(offsets[side], max(0, message.event_time), message.value), 0)
        offsets[side] += 1
        for parcel in partition.parcels():
            if isinstance(parcel, Blocks):
                yield from parcel.blocks
            partition.delivered(parcel)
        partition.acknowledged()
    store.close()


def _merged(streams: tuple[Iterator[Stamped], Iterator[Stamped]]) -> Iterator[tuple[Side, Stamped]]:
    """The messages of both topics, the one that is behind in event time first."""
    heads = [next(stream, None) for stream in streams]
    reached = [-1, -1]
    while any(head is not None for head in heads):
        waiting = [side for side in Side if heads[side] is not None]
        side = min(waiting, key=lambda s: (max(reached[s], heads[s].event_time), s))  # type: ignore[union-attr]
        head = heads[side]
        assert head is not None  # noqa: S101 - it is among those that wait
        reached[side] = max(reached[side], head.event_time)
        yield side, head
        heads[side] = next(streams[side], None)


def _stamped(values: Iterable[bytes | None], codec: Codec[Any]) -> Iterator[Stamped]:
    for value in values:
        try:
            records = codec.decode(value)
        except InvalidMessage:
            yield Stamped(-1, value)  # the join makes a dead letter of it, which nobody reads here
            continue
        times = [t for record in records for t in _times(record)]
        yield Stamped(max(times, default=-1), value)


def _times(record: Any) -> list[int]:
    if isinstance(record, ActionBatch):
        return [action.event_time for action in record.actions]
    return [record.event_time]


def from_files(folder: Path, topic: str, number: int) -> Iterator[bytes]:
    """The messages in FOLDER/TOPIC-NUMBER, none if there is no such file.

    Raises:
        ConfigError: it ends within a message.
    """
    path = folder / f"{topic}-{number}"
    if not path.exists():
        return
    with path.open("rb") as history:
        while head := history.read(4):
            length = struct.unpack("<I", head)[0] if len(head) == 4 else -1  # noqa: PLR2004
            value = history.read(max(0, length))
            if len(value) != length:
                raise ConfigError(f"{path}: ends within a message; legal are whole ones")
            yield value


def from_topic(config: Config, topic: str, number: int) -> Iterator[bytes | None]:
    """The messages of a topic's partition, up to where it ends now."""
    place = TopicPartition(topic, number)
    reader = consumer(config.kafka)
    reader.assign([place])
    reader.seek_to_beginning(place)
    end = reader.end_offsets([place])[place]
    while reader.position(place) < end:
        for message in reader.poll(timeout_ms=1000).get(place, []):
            if message.offset < end:
                yield message.value
    reader.close()


def main(
    config: Annotated[Path, typer.Argument(help="The deployment's YAML file.")],
    out: Annotated[Path, typer.Option(help="The folder to write to; it has to be new or empty.")],
    history: Annotated[Path | None, typer.Option(help="Read files in this folder, not topics.")] = None,
) -> None:
    """Join feature logs and actions of the past into Parquet."""
    logs.configure("backfill")
    loaded = load_config(config)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out: {out} is not empty; legal is a new or empty folder")
    if history is None:
        wait_for_broker(loaded.kafka, _BROKER_SECONDS)
    topics = loaded.kafka.topics
    names = (topics.feature_logs.name, topics.user_actions.name)
    for number in range(topics.feature_logs.partitions):
        with tempfile.TemporaryDirectory() as scratch:
            logs_, actions = (
                from_topic(loaded, name, number) if history is None else from_files(history, name, number)
                for name in names
            )
            rows = _write(out, number, join(loaded, number, (logs_, actions), Path(scratch) / "late"))
        _log.info("partition %d: %d rows", number, rows)


def _write(out: Path, number: int, blocks: Iterable[SampleBlock]) -> int:
    """Writes `blocks` in files of some 200,000 rows; how many rows they were."""
    waiting: list[SampleBlock] = []
    start = total = rows = 0
    for block in blocks:
        waiting.append(block)
        rows += len(block)
        if rows >= _ROWS:
            write(out, Span(number, start, start + len(waiting)), waiting)
            start, total, rows, waiting = start + len(waiting), total + rows, 0, []
    if waiting:
        write(out, Span(number, start, start + len(waiting)), waiting)
    return total + rows


if __name__ == "__main__":
    run(main)

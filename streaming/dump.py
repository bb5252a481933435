"""`python -m streaming.dump CONFIG.yaml`: the samples topic to hourly Parquet, exactly once.

A process and consumer group of its own. Where to go on is what the file names say; the group's offsets are
only for those who watch lag. One process reads all partitions.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError
from prometheus_client import Counter

from runtime import logs
from runtime.command import run
from runtime.kafka import consumer, ensure_topics, wait_for_broker
from runtime.ops import OpsServer
from schema.codec import TRAINING_SAMPLES
from schema.config import Config, DumpConfig
from schema.config_file import load_config
from schema.dump import Span, positions
from schema.errors import ConfigError, InvalidMessage
from schema.records import SampleBlock
from streaming.parquet import Place, write

_log = logging.getLogger(__name__)

_BROKER_SECONDS: Final = 30.0
_POLL_MS: Final = 500
_MESSAGES: Final = 500

_ROWS: Final = Counter("dump_rows", "Training rows written to Parquet.")
_FILES: Final = Counter("dump_spans", "Spans of offsets written to Parquet.")
_UNREADABLE: Final = Counter("dump_unreadable", "Messages of the samples topic that are no blocks.")


class _Open:
    """What has been read of one partition and not been written."""

    def __init__(self, start: int, now: float) -> None:
        self.start = self.end = start
        self.blocks: list[SampleBlock] = []
        self.places: list[Place] = []
        self.rows = 0
        self.since = now

    def add(self, offset: int, blocks: list[SampleBlock]) -> None:
        self.end = offset + 1
        self.blocks += blocks
        self.places += [(offset, within) for within in range(len(blocks))]
        self.rows += sum(map(len, blocks))


class Dump:
    """Reads, collects and writes.

    Args:
        config: the deployment.
        dump: its dump section.
        clock: seconds.
    """

    def __init__(self, config: Config, dump: DumpConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = Path(config.run_dir) / dump.path
        self._dump = dump
        self._clock = clock
        self._topic = config.kafka.topics.training_samples
        self._reader = consumer(config.kafka, group=dump.group)
        self._places = [TopicPartition(self._topic.name, p) for p in range(self._topic.partitions)]
        self._reader.assign(self._places)
        done = positions(self.folder)
        first = self._reader.beginning_offsets(self._places)
        self._open: dict[int, _Open] = {}
        for place in self._places:
            start = max(done.get(place.partition, 0), first[place])
            self._reader.seek(place, start)
            self._open[place.partition] = _Open(start, clock())

    def step(self) -> None:
        """Read for a moment, and write what is due."""
        for place, messages in self._reader.poll(timeout_ms=_POLL_MS, max_records=_MESSAGES).items():
            for message in messages:
                self._open[place.partition].add(message.offset, _blocks(message))
        for number, some in self._open.items():
            old = self._clock() - some.since >= self._dump.file_seconds
            if some.rows >= self._dump.file_rows or old:
                self._write(number, some)

    def finish(self) -> None:
        """Write what is there, and close."""
        for number, some in self._open.items():
            self._write(number, some)
        self._reader.close()

    def _write(self, number: int, some: _Open) -> None:
        self._open[number] = _Open(some.end, self._clock())
        if some.end == some.start:
            return
        write(self.folder, Span(number, some.start, some.end), some.blocks, some.places)
        _ROWS.inc(some.rows)
        _FILES.inc()
        try:
            place = TopicPartition(self._topic.name, number)
            self._reader.commit({place: OffsetAndMetadata(some.end, "", -1)}, timeout_ms=5000)
        except KafkaError as error:
            _log.warning("partition %d: its position was not committed: %s", number, error)


def _blocks(message: Any) -> list[SampleBlock]:
    try:
        return TRAINING_SAMPLES.decode(message.value)
    except InvalidMessage as error:
        _log.warning("partition %d, offset %d: %s", message.partition, message.offset, error)
        _UNREADABLE.inc()
        return []


def main(config: Annotated[Path, typer.Argument(help="The deployment's YAML file.")]) -> None:
    """Write the training samples to Parquet until told to stop."""
    logs.configure("dump")
    loaded = load_config(config)
    if loaded.streaming.dump is None:
        raise ConfigError("streaming.dump: null; legal is a section such as {path: samples}")
    wait_for_broker(loaded.kafka, _BROKER_SECONDS)
    ensure_topics(loaded.kafka)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    dump = Dump(loaded, loaded.streaming.dump)
    ops = OpsServer(loaded.ops_host, loaded.streaming.dump.ops_port, lambda: True)
    ops.start()
    while not stop.is_set():
        dump.step()
    dump.finish()
    ops.stop()


if __name__ == "__main__":
    run(main)

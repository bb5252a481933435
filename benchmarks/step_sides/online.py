"""The online trainer through the real parameter server: shards over Flight, journal, evaluation and all.

Only Kafka is left out: messages come from memory, decoded in a thread, as the trainer's own source does.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from parameter_server.client import ParameterClient
from parameter_server.errors import ParameterServerError
from schema.config import Config
from trainer.entries import Position
from trainer.feed import Chunk, Feed
from trainer.loop import Trainer
from trainer.messages import Message, MessageReader
from trainer.points import PointStore

_START_SECONDS = 120.0
# as trainer.source has them
_MESSAGES_A_CHUNK = 32
_CHUNKS_AHEAD = 8


class MemorySource:
    """A topic of one partition in memory, read ahead by a thread."""

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._chunks: queue.Queue[Chunk] = queue.Queue(_CHUNKS_AHEAD)
        self._offset = 0

    @property
    def history(self) -> bool:
        """See trainer.feed.Source."""
        return False

    def feed(self, messages: list[bytes]) -> None:
        """Let `messages` follow."""
        threading.Thread(target=self._read, args=(messages,), daemon=True).start()

    def _read(self, messages: list[bytes]) -> None:
        for start in range(0, len(messages), _MESSAGES_A_CHUNK):
            payloads = messages[start : start + _MESSAGES_A_CHUNK]
            read = [Message(0, offset, payload) for offset, payload in enumerate(payloads, self._offset)]
            entries = self._reader.read(read)
            self._offset += len(payloads)
            behind = frozenset([0]) if start + _MESSAGES_A_CHUNK < len(messages) else frozenset[int]()
            self._chunks.put(Chunk(tuple(entries), behind))

    def start(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""

    def get(self, timeout: float) -> Chunk | None:
        """See trainer.feed.Source."""
        try:
            return self._chunks.get(timeout=timeout)
        except queue.Empty:
            return None

    def hold(self, partitions: frozenset[int]) -> None:
        """See trainer.feed.Source."""

    def commit(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""


class OnlineSide:
    """A trainer that has recovered."""

    def __init__(self, trainer: Trainer, source: MemorySource) -> None:
        self._trainer = trainer
        self._source = source

    def rate(self, messages: list[bytes]) -> float:
        """Samples a second over `messages`, from the first read to the last push applied."""
        before = self._trainer.state.counters.rows
        began = time.perf_counter()
        self._source.feed(messages)
        while self._trainer.advance() or not self._trainer.idle:
            pass
        return (self._trainer.state.counters.rows - before) / (time.perf_counter() - began)


@contextmanager
def online(config: Config, config_file: Path) -> Iterator[OnlineSide]:
    """The trainer and its shards, as `config`, which `config_file` holds, says."""
    with ExitStack() as stack:
        for shard in range(len(config.parameter_server.shards)):
            stack.callback(stop_shard, start_shard(config_file, shard))
        client = stack.enter_context(ParameterClient(config.parameter_server))
        wait_for(client)
        store = stack.enter_context(closing(PointStore(Path(config.run_dir) / "trainer", kept=2)))
        tasks = [task.name for task in config.tasks]
        source = MemorySource(MessageReader("samples", config.features, tasks))
        trainer = Trainer(config, Feed(source, [0]), client, store, lambda _: None)
        stack.callback(trainer.close)
        trainer.recover()
        yield OnlineSide(trainer, source)


def start_shard(config_file: Path, shard: int) -> subprocess.Popen[bytes]:
    """A shard in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "parameter_server", str(config_file), "--shard", str(shard)]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL)


def stop_shard(process: subprocess.Popen[bytes]) -> None:
    """End it, if it still runs."""
    process.terminate()
    process.wait(30)


def wait_for(client: ParameterClient) -> None:
    """Return once every shard answers."""
    deadline = time.monotonic() + _START_SECONDS
    for shard in range(client.shards):
        while True:
            try:
                client.shard_state(shard)
                break
            except ParameterServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

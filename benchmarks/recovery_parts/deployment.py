"""Two shard processes, trainers of this process one after the other, and the log that they read."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import yaml
from step_sides.online import start_shard, stop_shard, wait_for

from parameter_server import checkpoint
from parameter_server.client import ParameterClient
from parameter_server.restore import folder_of
from recovery_parts.stream import Mix, standing_ids
from runtime.ports import free_port
from schema.config import Config
from schema.config_file import load_config
from trainer.entries import Entry, Position
from trainer.feed import Chunk, Feed
from trainer.loop import Trainer
from trainer.messages import MessageReader
from trainer.points import PointStore

_CONFIG: Final = Path(__file__).parents[2] / "configs/local.yaml"
_TABLE: Final = "embedding"
_MESSAGES_A_CHUNK: Final = 16
_FILL_IDS: Final = 50_000


class Log:
    """A topic of one partition in memory, which can be read again from any offset that is not dropped."""

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._messages: list[bytes] = []
        self._dropped = 0
        self._next = 0

    @property
    def end(self) -> int:
        """The offset of the message that follows."""
        return self._dropped + len(self._messages)

    @property
    def history(self) -> bool:
        """See trainer.feed.Source."""
        return False

    def write(self, messages: list[bytes]) -> None:
        """Let `messages` follow."""
        self._messages += messages

    def drop(self, before: int) -> None:
        """No one will read what is before the offset `before` again."""
        del self._messages[: before - self._dropped]
        self._dropped = before

    def left(self, trainer: Trainer) -> int:
        """Messages that `trainer` has not trained yet."""
        done = trainer.state.positions.get(0, Position(0))
        return self.end - done.offset

    def start(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""
        self._next = positions[0].offset

    def get(self, timeout: float) -> Chunk | None:
        """See trainer.feed.Source."""
        if self._next == self.end:
            time.sleep(timeout)
            return None
        first = self._next
        self._next = min(first + _MESSAGES_A_CHUNK, self.end)
        entries: list[Entry] = []
        for offset in range(first, self._next):
            entries += self._reader.entries(0, offset, self._messages[offset - self._dropped])
        return Chunk(tuple(entries), frozenset([0]) if self._next < self.end else frozenset())

    def hold(self, partitions: frozenset[int]) -> None:
        """See trainer.feed.Source."""

    def commit(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""


class Deployment:
    """Two shard processes, and trainers of this process, one after the other.

    Args:
        folder: where everything lies.
        batch_rows: of a step.
        stack: ends the shards.
    """

    def __init__(self, folder: Path, batch_rows: int, stack: ExitStack) -> None:
        self._file = _config_file(folder, batch_rows)
        self.config: Config = load_config(self._file)
        config = self.config
        self._run_dir = Path(config.run_dir)
        self._shards = [
            start_shard(self._file, shard) for shard in range(len(config.parameter_server.shards))
        ]
        stack.callback(self._stop)
        self.client = stack.enter_context(ParameterClient(config.parameter_server))
        wait_for(self.client)
        self._store = stack.enter_context(closing(PointStore(self._run_dir / "trainer", kept=2)))
        self.log = Log(MessageReader("samples", config.features, [task.name for task in config.tasks]))

    def _stop(self) -> None:
        for process in self._shards:
            stop_shard(process)

    def fill(self, mix: Mix) -> None:
        """Have rows of all ids that `mix` begins with, as after long training."""
        dim = next(t.dim for t in self.config.parameter_server.tables if t.name == _TABLE)
        step = 0
        for ids in standing_ids(self.config, mix):
            for start in range(0, len(ids), _FILL_IDS):
                part = ids[start : start + _FILL_IDS]
                step += 1
                self.client.push("filler", step, {_TABLE: (part, np.zeros((len(part), dim), np.float32))}, 0)

    def new_trainer(self) -> Trainer:
        """A trainer that has not recovered yet."""
        return Trainer(self.config, Feed(self.log, [0]), self.client, self._store, lambda _: None)

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """A trainer that has recovered."""
        trainer = self.new_trainer()
        try:
            trainer.recover()
            yield trainer
        finally:
            trainer.close()

    def forget_read(self) -> None:
        """Drop what comes before the oldest recovery point from the log."""
        self.log.drop(self._store.points()[0].offsets.get(0, Position(0)).offset)

    def steps_since_point(self, trainer: Trainer) -> int:
        """How many steps a kill now costs."""
        return trainer.state.counters.step - self._store.points()[-1].step

    def rows(self) -> int:
        """How many all shards have, of all tables."""
        return sum(sum(self.client.stats(shard).rows.values()) for shard in range(self.client.shards))

    def written_rows(self) -> tuple[int, bool]:
        """How many rows the newest checkpoints added, and whether these are only those that changed."""
        manifests = [
            checkpoint.manifest_of(checkpoint.found(folder_of(self._run_dir, shard))[0])
            for shard in range(self.client.shards)
        ]
        return sum(m.segments[-1].rows for m in manifests), all(len(m.segments) > 1 for m in manifests)

    def files(self) -> dict[int, int]:
        """The size of every file of the run, by inode: what is linked counts once."""
        found = {}
        for path in self._run_dir.rglob("*"):
            status = path.stat()
            if not path.is_dir():
                found[status.st_ino] = status.st_size
        return found

    def cpu_seconds(self) -> float:
        """What this process and the shards have computed so far."""
        times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *(s.pid for s in self._shards))]
        return sum(t.user + t.system for t in times)

    def kill_shard(self, shard: int) -> None:
        """It comes back at once."""
        self._shards[shard].kill()
        self._shards[shard].wait(30)
        self._shards[shard] = start_shard(self._file, shard)


def _config_file(folder: Path, batch_rows: int) -> Path:
    ports = [{"port": free_port(), "ops_port": free_port()} for _ in range(2)]
    never = 1e9
    settings: dict[str, Any] = {
        "extends": str(_CONFIG.resolve()),
        "run_dir": str(folder / "run"),
        "parameter_server": {"shards": ports, "checkpoint_seconds": never},
        "trainer": {"batch_rows": batch_rows, "baseline": False, "recovery_seconds": never},
    }
    file = folder / "recovery.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file

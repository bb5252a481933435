"""A recovery point of trainer and shards every 30 s costs little, and a killed shard costs seconds.

Claim: with a point every 30 s the trainer, through two shard processes, trains at least 95 % of the samples
that it trains without. One side trains so many rows, the other as many with a point made meanwhile, of the
rows that both have changed; what it takes longer, over 30 s, is the cost. Then a shard is killed (-9) and
started again, and the clock runs until the step at which it was killed has been done again; then the trainer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
import yaml
from harness import Benchmark
from step_sides.online import start_shard, stop_shard, wait_for
from step_sides.samples import Samples

from parameter_server.client import ParameterClient
from runtime.ports import free_port
from schema.config import Config
from schema.config_file import load_config
from trainer.entries import Entry, Position
from trainer.errors import ShardReset
from trainer.feed import Chunk, Feed
from trainer.loop import Trainer
from trainer.messages import MessageReader
from trainer.points import PointStore

_CONFIG: Final = Path(__file__).parents[1] / "configs/local.yaml"
_EVERY_SECONDS: Final = 30.0
_MESSAGES_A_CHUNK: Final = 16


class Log:
    """A topic of one partition in memory, which can be read again from any offset."""

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._messages: list[bytes] = []
        self._next = 0

    @property
    def history(self) -> bool:
        """See trainer.feed.Source."""
        return False

    def write(self, messages: list[bytes]) -> None:
        """Let `messages` follow."""
        self._messages += messages

    def left(self, trainer: Trainer) -> int:
        """Messages that `trainer` has not trained yet."""
        done = trainer.state.positions.get(0, Position(0))
        return len(self._messages) - done.offset

    def start(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""
        self._next = positions[0].offset

    def get(self, timeout: float) -> Chunk | None:
        """See trainer.feed.Source."""
        if self._next == len(self._messages):
            time.sleep(timeout)
            return None
        first = self._next
        self._next = min(first + _MESSAGES_A_CHUNK, len(self._messages))
        entries: list[Entry] = []
        for offset in range(first, self._next):
            entries += self._reader.entries(0, offset, self._messages[offset])
        return Chunk(tuple(entries), frozenset([0]) if self._next < len(self._messages) else frozenset())

    def hold(self, partitions: frozenset[int]) -> None:
        """See trainer.feed.Source."""

    def commit(self, positions: Mapping[int, Position]) -> None:
        """See trainer.feed.Source."""


class Deployment:
    """Two shard processes, and trainers of this process, one after the other."""

    def __init__(self, config: Config, file: Path, stack: ExitStack) -> None:
        self._config, self._file = config, file
        self._shards = [start_shard(file, shard) for shard in range(len(config.parameter_server.shards))]
        stack.callback(self._stop)
        self._client = stack.enter_context(ParameterClient(config.parameter_server))
        wait_for(self._client)
        self._store = stack.enter_context(closing(PointStore(Path(config.run_dir) / "trainer", kept=2)))
        self.log = Log(MessageReader("samples", config.features, [task.name for task in config.tasks]))

    def _stop(self) -> None:
        for process in self._shards:
            stop_shard(process)

    @contextmanager
    def trainer(self) -> Iterator[Trainer]:
        """A trainer that has recovered."""
        trainer = Trainer(self._config, Feed(self.log, [0]), self._client, self._store, lambda _: None)
        try:
            trainer.recover()
            yield trainer
        finally:
            trainer.close()

    def steps_since_point(self, trainer: Trainer) -> int:
        """How many steps a kill now costs."""
        return trainer.state.counters.step - self._store.points()[-1].step

    def kill_shard(self, shard: int) -> None:
        """It comes back at once."""
        self._shards[shard].kill()
        self._shards[shard].wait(30)
        self._shards[shard] = start_shard(self._file, shard)


def train(trainer: Trainer, log: Log, *, with_point: bool) -> float:
    """Seconds until all that is in the log is trained and, with one, a point made beside it is there."""
    began = time.perf_counter()
    made = trainer.ask_point() if with_point else None
    while log.left(trainer) or not trainer.idle or (made is not None and not made.done()):
        trainer.advance()
    return time.perf_counter() - began


def until_again(deployment: Deployment, step: int, began: float) -> float:
    """Seconds since `began` until a trainer anew has done `step`."""
    while True:
        try:
            with deployment.trainer() as trainer:
                while trainer.state.counters.step < step:
                    trainer.advance()
                return time.perf_counter() - began
        except ShardReset:
            continue


def after_a_shard(deployment: Deployment, trainer: Trainer) -> float:
    """Seconds from the kill of a shard until the step at which it was killed is done again."""
    step = trainer.state.counters.step
    began = time.perf_counter()
    deployment.kill_shard(0)
    try:
        while True:
            trainer.advance()
    except ShardReset:
        trainer.close()
    return until_again(deployment, step, began)


def start_seconds() -> float:
    """How long a trainer process takes before it does anything."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trainer", "--help"], check=True, capture_output=True, timeout=120)
    return time.perf_counter() - began


def main(
    rows: Annotated[int, typer.Option(help="Rows a side of a round.", min=1000)] = 150_000,
    batch_rows: Annotated[int, typer.Option(help="Rows a batch.", min=1)] = 512,
    rounds: Annotated[int, typer.Option(help="Alternations.", min=3)] = 5,
) -> None:
    """Measure what a point costs, then kill."""
    torch.set_num_threads(1)
    bench = Benchmark("recovery")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = _config_file(Path(folder), batch_rows)
        config = load_config(file)
        samples = Samples(config, 1, seed=1)
        deployment = Deployment(config, file, stack)
        with deployment.trainer() as trainer:
            bench.say("warming up")
            deployment.log.write(samples.messages(rows))
            train(trainer, deployment.log, with_point=True)

            def side(*, with_point: bool) -> float:
                deployment.log.write(samples.messages(rows))
                return train(trainer, deployment.log, with_point=with_point)

            sides = {
                "seconds_without": lambda: side(with_point=False),
                "seconds_with_a_point": lambda: side(with_point=True),
            }
            results = bench.alternate(sides, rounds)
            extra = [r["seconds_with_a_point"] - r["seconds_without"] for r in results]
            bench.measured["seconds_a_point_costs"] = {"min": min(extra), "max": max(extra)}
            bench.bar("throughput_cost", statistics.median(extra) / _EVERY_SECONDS, at_most=0.05)
            deployment.log.write(samples.messages(rows))
            while deployment.log.left(trainer) > rows // 100:
                trainer.advance()
            bench.say("killing a shard")
            bench.measured["steps_since_the_point"] = deployment.steps_since_point(trainer)
            step = trainer.state.counters.step
            shard_seconds = after_a_shard(deployment, trainer)
            bench.measured["seconds_from_a_shards_kill_to_the_killed_step"] = shard_seconds
        bench.say("the trainer anew")
        recovered = until_again(deployment, step, time.perf_counter())
        bench.measured["seconds_from_the_trainers_kill_to_the_killed_step"] = start_seconds() + recovered
    bench.measured |= {"rows_a_side": rows, "batch_rows": batch_rows}
    bench.finish()


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


if __name__ == "__main__":
    typer.run(main)

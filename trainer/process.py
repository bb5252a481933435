"""The trainer as a process: its parts put together, its endpoint, its end. Knows no command line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import msgspec
import torch

from parameter_server.client import ParameterClient
from runtime.kafka import EnvelopeProducer, ensure_topics
from runtime.ops import OpsServer
from schema.codec import DEAD_LETTERS
from schema.config import Config, DumpConfig
from schema.records import DeadLetter
from trainer import telemetry
from trainer.arrivals import CatalogueArrivals
from trainer.entries import Position
from trainer.errors import Returning, RollBack, UnknownPoint
from trainer.feed import Feed, Source
from trainer.history import HistorySource
from trainer.loop import Trainer
from trainer.manifest import Manifest
from trainer.messages import MessageReader
from trainer.points import PointStore
from trainer.ranks import Ranks, joined, leave, mine, of_rank
from trainer.source import KafkaSource, LagMeter
from trainer.tensorboard import TensorBoardLog, Watch

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 5.0
_COMMAND_SECONDS: Final = 120.0
_NOT_YET: Final = "the trainer is on its way back to a recovery point; legal is to ask again"


def store_folder(config: Config) -> Path:
    """Where the recovery points of a trainer of `config` lie."""
    return Path(config.run_dir) / "trainer"


class TrainerProcess:
    """The trainer, through every return to a recovery point: what its endpoint shows and does.

    Args:
        config: the whole configuration.
        store: the recovery points.
        meter: tells the lag; None where there is none.
        ranks: the processes that this one learns the dense model with.
        history: where `trainer.mode: batch` reads.
    """

    def __init__(
        self, config: Config, store: PointStore, meter: LagMeter | None, ranks: Ranks, history: Path
    ) -> None:
        self._config = config
        self._store = store
        self._meter = meter
        self._ranks = ranks
        self._history = history
        self._trainer: Trainer | None = None
        self._returns = 0

    def run(self, stop: threading.Event) -> None:
        """Train until `stop` is set, or a history ends; see Trainer.run. A return is a trainer anew.

        Raises:
            Returning: where there are other ranks, which cannot return by this one alone.
        """
        while (reason := self._life(stop)) is not None:
            if self._ranks.size > 1:
                raise reason
            _log.warning("everything returns to a recovery point: %s", reason)
            self._returns += 1
            telemetry.RETURNS.inc()
            if isinstance(reason, RollBack):
                self._store.roll_back(reason.number)

    def _life(self, stop: threading.Event) -> Returning | None:
        """One trainer, to its end; why another has to follow."""
        with ExitStack() as stack:
            self._trainer = trainer = self._build(stack)
            batch = self._config.trainer.mode == "batch"
            try:
                trainer.run(lambda: stop.is_set() or (batch and trainer.idle))
            except Returning as reason:
                return reason
            finally:
                trainer.consuming = False
        return None

    def _build(self, stack: ExitStack) -> Trainer:
        config, ranks = self._config, self._ranks
        samples = config.kafka.topics.training_samples
        reader = MessageReader(samples.name, config.features, [task.name for task in config.tasks])
        source: Source
        dead_letter: Callable[[DeadLetter], None]
        if config.trainer.mode == "batch":
            source, dead_letter = HistorySource(self._history, samples.partitions, reader), _log_dead
        else:
            source, dead_letter = _samples(config, reader, stack), _dead_letters(config, stack)
        client = stack.enter_context(ParameterClient(config.parameter_server))
        feed = Feed(source, mine(samples.partitions, ranks))
        watch: Watch = telemetry.observe_quality
        if config.trainer.tensorboard:
            board = stack.enter_context(closing(TensorBoardLog(Path(config.run_dir) / "tensorboard")))
            watch = board.also(watch)
        arrivals = None
        if config.retrieval is not None and config.trainer.mode == "online":
            arrivals = _arrivals(config, stack)
        trainer = Trainer(
            config, feed, client, self._store, dead_letter, arrivals=arrivals, ranks=ranks, watch=watch
        )
        # before the client, so that nothing is asked of a closed one
        stack.callback(trainer.close)
        return trainer

    def ready(self) -> bool:
        """Whether samples are trained on."""
        return self._trainer is not None and self._trainer.consuming

    def report(self) -> dict[str, Any]:
        """The report "trainer"."""
        if self._trainer is None:
            return {}
        report, positions = self._trainer.report()
        points = [_described(manifest) for manifest in self._store.points()]
        more = {"lag": self._lag(positions), "returns": self._returns, "recovery_points": points}
        return report | more

    def resume(self, _given: Mapping[str, Any]) -> dict[str, Any]:
        """The command "resume", which takes nothing."""
        return {"held": self._now().resume()}

    def recovery_point(self, _given: Mapping[str, Any]) -> dict[str, Any]:
        """The command "recovery_point", which takes nothing: makes one now, and describes it."""
        return _described(self._now().ask_point().result(_COMMAND_SECONDS))

    def rollback(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The command "rollback": `to` is the number of a point, by default the one before the newest.

        Raises:
            UnknownPoint: there is none; the text has those that there are.
            ValueError: there are other ranks.
        """
        if self._ranks.size > 1:
            raise ValueError(f"rollback: there are {self._ranks.size} ranks; legal is a trainer by itself")
        chosen = choose(self._store.points(), given.get("to"))
        self._now().roll_back(chosen.number)
        return _described(chosen)

    def lag(self) -> int | None:
        """Messages that are not trained yet."""
        return None if self._trainer is None else self._lag(self._trainer.report()[1])

    def _lag(self, positions: Mapping[int, Position]) -> int | None:
        return None if self._meter is None else self._meter.lag(positions)

    def _now(self) -> Trainer:
        if self._trainer is None or not self._trainer.consuming:
            raise ValueError(_NOT_YET)
        return self._trainer


def choose(points: list[Manifest], number: object) -> Manifest:
    """The point of `points`, oldest first, with that number; for None the one before the newest.

    Raises:
        UnknownPoint: there is none.
    """
    if number is None and len(points) > 1:
        return points[-2]
    for point in points:
        if type(number) is int and point.number == number:
            return point
    raise UnknownPoint(number, [point.number for point in points])


def _described(manifest: Manifest) -> dict[str, Any]:
    shown = ("number", "made_at", "step", "rows", "offsets", "returned_to")
    return {name: value for name, value in msgspec.to_builtins(manifest).items() if name in shown}


def run(config: Config, stop: threading.Event) -> None:
    """Train as `config` says until `stop` is set.

    Raises:
        HeadwaterError: something that the trainer needs is not there or went away.
    """
    torch.set_num_threads(config.trainer.torch_threads)
    online = config.trainer.mode == "online"
    if online:
        ensure_topics(config.kafka)
    with ExitStack() as stack:
        ranks = joined(config)
        stack.callback(leave, ranks)
        history = history_folder(config)
        config = of_rank(config, ranks)
        store = stack.enter_context(closing(open_store(config)))
        partitions = mine(config.kafka.topics.training_samples.partitions, ranks)
        meter = stack.enter_context(closing(LagMeter(config.kafka, partitions))) if online else None
        process = TrainerProcess(config, store, meter, ranks, history)
        telemetry.observe_lag(process.lag)
        commands = {
            "resume": process.resume,
            "recovery_point": process.recovery_point,
            "rollback": process.rollback,
        }
        port = config.trainer.ops_port
        ops = OpsServer(config.ops_host, port, process.ready, {"trainer": process.report}, commands)
        ops.start()
        stack.callback(ops.stop)
        process.run(stop)


def history_folder(config: Config) -> Path:
    """Where `trainer.mode: batch` reads."""
    dump = config.streaming.dump or DumpConfig()
    return Path(config.run_dir) / (config.trainer.history or dump.path)


def _samples(config: Config, reader: MessageReader, stack: ExitStack) -> KafkaSource:
    source = KafkaSource(config.kafka, config.trainer.trainer_id, reader)
    stack.callback(source.stop)
    return source


def _dead_letters(config: Config, stack: ExitStack) -> Callable[[DeadLetter], None]:
    topic = config.kafka.topics.dead_letters
    dead: EnvelopeProducer[DeadLetter] = EnvelopeProducer(config.kafka, topic, DEAD_LETTERS)
    stack.callback(dead.close, _CLOSE_SECONDS)
    return lambda letter: dead.send_to(0, letter)


def _log_dead(letter: DeadLetter) -> None:
    """A history has no broker beside it; who read the topic has had the letter."""
    _log.warning("a block at %d:%d is left out: %s", letter.partition, letter.offset, letter.detail)


def open_store(config: Config) -> PointStore:
    """The recovery points of the trainer of `config`; RecoveryError while it runs."""
    return PointStore(store_folder(config), config.trainer.recovery_points)


def _arrivals(config: Config, stack: ExitStack) -> CatalogueArrivals:
    arrivals = CatalogueArrivals(config)
    stack.callback(arrivals.stop)
    arrivals.start()
    return arrivals

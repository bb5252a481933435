"""The trainer as a process: its parts put together, its endpoint, its end. Knows no command line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

import torch

from parameter_server.client import ParameterClient
from runtime.kafka import EnvelopeProducer, ensure_topics
from runtime.ops import OpsServer
from schema.codec import DEAD_LETTERS
from schema.config import Config
from schema.records import DeadLetter
from trainer import telemetry
from trainer.arrivals import CatalogueArrivals
from trainer.feed import Feed
from trainer.loop import Trainer
from trainer.messages import MessageReader
from trainer.ranks import Ranks, joined, leave, mine, of_rank
from trainer.recovery import RecoveryStore
from trainer.source import KafkaSource, LagMeter
from trainer.tensorboard import TensorBoardLog, Watch

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 5.0


class TrainerProcess:
    """One trainer with all its connections, from `open` on."""

    def __init__(self, trainer: Trainer, meter: LagMeter) -> None:
        self._trainer = trainer
        self._meter = meter

    def report(self) -> dict[str, Any]:
        """The report "trainer"."""
        report, positions = self._trainer.report()
        return report | {"lag": self._meter.lag(positions)}

    def resume(self, _given: Mapping[str, Any]) -> dict[str, Any]:
        """The command "resume", which takes nothing."""
        return {"held": self._trainer.resume()}

    def lag(self) -> int | None:
        """Messages that are not trained yet."""
        return self._meter.lag(self._trainer.report()[1])


def run(config: Config, stop: threading.Event) -> None:
    """Train as `config` says until `stop` is set.

    Raises:
        HeadwaterError: something that the trainer needs is not there or went away.
    """
    torch.set_num_threads(config.trainer.torch_threads)
    ensure_topics(config.kafka)
    with ExitStack() as stack:
        ranks = joined(config)
        stack.callback(leave, ranks)
        config = of_rank(config, ranks)
        trainer = _build(config, ranks, stack)
        partitions = mine(config.kafka.topics.training_samples.partitions, ranks)
        meter = stack.enter_context(closing(LagMeter(config.kafka, partitions)))
        process = TrainerProcess(trainer, meter)
        telemetry.observe_lag(process.lag)
        port = config.trainer.ops_port
        ops = OpsServer(
            config.ops_host,
            port,
            lambda: trainer.consuming,
            {"trainer": process.report},
            {"resume": process.resume},
        )
        ops.start()
        stack.callback(ops.stop)
        trainer.run(stop.is_set)


def _build(config: Config, ranks: Ranks, stack: ExitStack) -> Trainer:
    store = stack.enter_context(closing(RecoveryStore(Path(config.run_dir) / "trainer")))
    topics = config.kafka.topics
    dead: EnvelopeProducer[DeadLetter] = EnvelopeProducer(config.kafka, topics.dead_letters, DEAD_LETTERS)
    stack.callback(dead.close, _CLOSE_SECONDS)
    samples = topics.training_samples
    reader = MessageReader(samples.name, config.features, [task.name for task in config.tasks])
    source = KafkaSource(config.kafka, config.trainer.trainer_id, reader)
    stack.callback(source.stop)
    client = stack.enter_context(ParameterClient(config.parameter_server))
    feed = Feed(source, mine(samples.partitions, ranks))
    arrivals = None if config.retrieval is None else _arrivals(config, stack)
    watch: Watch = telemetry.observe_quality
    if config.trainer.tensorboard:
        board = stack.enter_context(closing(TensorBoardLog(Path(config.run_dir) / "tensorboard")))
        watch = board.also(watch)
    trainer = Trainer(
        config,
        feed,
        client,
        store,
        lambda letter: dead.send_to(0, letter),
        arrivals=arrivals,
        ranks=ranks,
        watch=watch,
    )
    # before the client, so that nothing is asked of a closed one
    stack.callback(trainer.close)
    return trainer


def _arrivals(config: Config, stack: ExitStack) -> CatalogueArrivals:
    arrivals = CatalogueArrivals(config)
    stack.callback(arrivals.stop)
    arrivals.start()
    return arrivals

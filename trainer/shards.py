"""What the trainer asks of the parameter server: pushes, and word of what a shard has lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from trainer import telemetry
from trainer.lost import Loss, LossWatch
from trainer.publishing import DenseSink
from trainer.step import Gradients, Puller

_log = logging.getLogger(__name__)


class Pushed(Protocol):
    """By shard: its clock after a push, and whether it applied the push now."""

    @property
    def clocks(self) -> tuple[int, ...]:
        """Shape (shards,)."""

    @property
    def applied(self) -> tuple[bool, ...]:
        """Shape (shards,)."""


class Standing(Protocol):
    """Where a shard stands."""

    @property
    def epoch(self) -> int:
        """Another one after every start of the shard."""

    @property
    def steps(self) -> dict[str, int]:
        """The last step that the shard has of each trainer."""


class Client(Puller, DenseSink, Protocol):
    """The part of `parameter_server.client.ParameterClient` that the trainer uses."""

    @property
    def shards(self) -> int:
        """How many there are."""

    def push(
        self,
        trainer: str,
        step: int,
        gradients: Gradients,
        event_time: int,
        completed_at: Sequence[int] = (),
    ) -> Pushed:
        """Apply a step's gradients, once."""

    def shard_state(self, shard: int) -> Standing:
        """Where `shard` stands."""


class Shards:
    """All shards, as trainer `trainer` sees them.

    Args:
        client: the connection to them.
        trainer: the trainer's id.
        watch: remembers the pushes.
        on_loss: told of every loss.
        on_restart: told when a shard has started anew, whether or not a step is lost.
    """

    def __init__(
        self,
        client: Client,
        trainer: str,
        watch: LossWatch,
        on_loss: Callable[[Loss], None],
        on_restart: Callable[[], None],
    ) -> None:
        self._client = client
        self._trainer = trainer
        self._watch = watch
        self._on_loss = on_loss
        self._on_restart = on_restart
        self._epochs: dict[int, int] = {}

    def push(
        self, step: int, rows: int, gradients: Gradients, event_time: int, completed_at: Sequence[int]
    ) -> None:
        """Push the gradients of `step`, of `rows` rows; see ParameterClient.push."""
        done = self._client.push(self._trainer, step, gradients, event_time, completed_at)
        for loss in self._watch.pushed(step, rows, done.clocks, done.applied):
            epoch = self._client.shard_state(loss.shard).epoch
            self._report(msgspec.structs.replace(loss, epoch=epoch))

    def look(self) -> int:
        """Ask every shard what it has, between two pushes; the highest of our steps that any of them has."""
        highest = 0
        for shard in range(self._client.shards):
            state = self._client.shard_state(shard)
            if self._epochs.setdefault(shard, state.epoch) != state.epoch:
                self._epochs[shard] = state.epoch
                self._on_restart()
            last = state.steps.get(self._trainer, 0)
            highest = max(highest, last)
            for loss in self._watch.observed(shard, state.epoch, last):
                self._report(loss)
        return highest

    def _report(self, loss: Loss) -> None:
        _log.warning(
            "shard %d came back without steps %d to %d (%d rows)",
            loss.shard,
            loss.from_step,
            loss.to_step,
            loss.rows,
        )
        telemetry.LOST.labels(loss.shard).inc(loss.rows)
        self._on_loss(loss)

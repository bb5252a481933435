"""What the trainer asks of the parameter server: pushes, checkpoints of a point, and the return to one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from parameter_server.errors import ParameterServerError
from schema.records import F32, I64, U64
from trainer.errors import ShardReset
from trainer.journal import Push
from trainer.manifest import Manifest, ShardPlace
from trainer.publishing import DenseSink
from trainer.step import Gradients, Puller

_log = logging.getLogger(__name__)

_POINT: Final = "point-"
"""How names of checkpoints begin that shards keep until they are told otherwise."""


class Pushed(Protocol):
    """What a push came to."""

    @property
    def epochs(self) -> tuple[int, ...]:
        """Of each shard."""


class Standing(Protocol):
    """Where a shard stands."""

    @property
    def epoch(self) -> int:
        """Another one after every start of the shard, and every return to a checkpoint."""

    @property
    def clock(self) -> int:
        """Rises with every change."""

    @property
    def steps(self) -> dict[str, int]:
        """The last step that the shard has of each trainer."""


class Written(Protocol):
    """A checkpoint of a shard."""

    @property
    def epoch(self) -> int:
        """The shard's, with it."""

    @property
    def clock(self) -> int:
        """The shard's, with it."""


class Client(Puller, DenseSink, Protocol):
    """The part of `parameter_server.client.ParameterClient` that the trainer uses."""

    @property
    def shards(self) -> int:
        """How many there are."""

    def shards_of(self, ids: U64) -> I64:
        """Which of them has each of `ids` (n,)."""

    def push(
        self,
        trainer: str,
        step: int,
        gradients: Gradients,
        event_time: int,
        completed_at: Sequence[int] = (),
    ) -> Pushed:
        """Apply a step's gradients, once."""

    def push_and_pull(
        self,
        trainer: str,
        step: int,
        gradients: Gradients,
        event_time: int,
        completed_at: Sequence[int],
        *,
        wanted: Mapping[str, U64],
    ) -> tuple[Pushed, Mapping[str, F32]]:
        """`push`, and then the vectors (n, dim) of the ids (n,) of each table of `wanted`."""

    def shard_state(self, shard: int) -> Standing:
        """Where `shard` stands."""

    def checkpoint(self, shard: int, name: str) -> Written:
        """Have `shard` write a checkpoint."""

    def restore(self, shard: int, name: str) -> Written:
        """Have `shard` return to its newest checkpoint of `name`, in a new epoch."""

    def keep(self, shard: int, prefix: str, names: Sequence[str]) -> int:
        """Have `shard` drop its checkpoints named `prefix` and a number, but for `names`."""


class Shards:
    """All shards, as trainer `trainer` sees them. Every call may raise ShardReset or ParameterServerError.

    Args:
        client: the connection to them.
        trainer: the trainer's id.
    """

    def __init__(self, client: Client, trainer: str) -> None:
        self._client = client
        self._trainer = trainer
        self._epochs: list[int] | None = None

    @property
    def count(self) -> int:
        """How many there are."""
        return self._client.shards

    def push(self, push: Push, completed_at: Sequence[int] = ()) -> None:
        """Push to all; see ParameterClient.push."""
        done = self._client.push(self._trainer, push.step, push.gradients, push.event_time, completed_at)
        self.check(done.epochs)

    def push_and_pull(
        self, push: Push, completed_at: Sequence[int], wanted: Mapping[str, U64]
    ) -> Mapping[str, F32]:
        """Push to all, then pull; see ParameterClient.push_and_pull."""
        done, vectors = self._client.push_and_pull(
            self._trainer, push.step, push.gradients, push.event_time, completed_at, wanted=wanted
        )
        self.check(done.epochs)
        return vectors

    def look(self) -> int:
        """Ask every shard where it stands; the highest of our steps that any of them has."""
        states = [self._client.shard_state(shard) for shard in range(self.count)]
        self.check([state.epoch for state in states])
        return max(state.steps.get(self._trainer, 0) for state in states)

    def check(self, epochs: Sequence[int]) -> None:
        """Compare the shards' epochs with those that they had first.

        Raises:
            ShardReset: one has another.
        """
        if self._epochs is None:
            self._epochs = list(epochs)
        for shard, (had, has) in enumerate(zip(self._epochs, epochs, strict=True)):
            if had != has:
                raise ShardReset(f"shard {shard} came back in epoch {has}; it may lack what was pushed")

    def point_name(self, number: int) -> str:
        """What the shards' checkpoints of point `number` are named."""
        return f"{self._series}{number:08d}"

    @property
    def _series(self) -> str:
        return f"{_POINT}{self._trainer}-"

    def checkpoint(self, shard: int, name: str) -> ShardPlace:
        """Have `shard` write a checkpoint of a point."""
        written = self._client.checkpoint(shard, name)
        return ShardPlace(written.epoch, written.clock)

    def keep(self, names: Sequence[str]) -> None:
        """Have all drop their checkpoints of points, but for `names`; what fails, the next call does."""
        try:
            for shard in range(self.count):
                self._client.keep(shard, self._series, names)
        except ParameterServerError as error:
            _log.warning("checkpoints that no recovery point needs were not dropped: %s", error)

    def return_to(self, point: Manifest) -> None:
        """Have every shard return to its checkpoint of `point`, unless that is where it stands."""
        if len(point.shards) != self.count:
            _log.warning("point %d is of %d shards, not %d", point.number, len(point.shards), self.count)
        with ThreadPoolExecutor(self.count) as pool:
            self._epochs = list(pool.map(lambda shard: self._return(shard, point), range(self.count)))

    def _return(self, shard: int, point: Manifest) -> int:
        state = self._client.shard_state(shard)
        if len(point.shards) == self.count and point.shards[shard] == ShardPlace(state.epoch, state.clock):
            return state.epoch
        return self._client.restore(shard, point.checkpoint).epoch

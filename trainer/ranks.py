"""Several trainer processes that learn one dense model, in rounds; knows gloo, and neither samples nor steps.

A round is one all-reduce that every rank takes part in: those with a batch bring its gradients, the others
nothing. So ranks make the same dense steps, and wait for one another, whoever has samples. Ranks end after
the same round: the first in which all of them wished to.

`torchrun` starts the processes (https://pytorch.org/docs/stable/elastic/run.html).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, distributed

from schema.config import Config
from schema.errors import ConfigError

_PATIENCE_SECONDS = 60.0

T = TypeVar("T")


class Ranks(Protocol):
    """This process among its like."""

    @property
    def rank(self) -> int:
        """Its number, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def average(self, parameters: Sequence[Tensor], rows: int) -> bool:
        """Take part in a round: their gradients, weighted by `rows`, become the mean of all ranks'.

        False, with nothing changed, where no rank has rows. With 0 rows this rank's gradients do not count.
        """

    def agree_to_stop(self, wish: bool) -> bool:  # noqa: FBT001 - the one thing that it is about
        """Whether all ranks wished to stop by the last round; `wish` is told in the next."""

    def share(self, state: T) -> T:
        """The `state` of rank 0."""


class Alone:
    """The one process that there is."""

    rank = 0
    size = 1

    def average(self, parameters: Sequence[Tensor], rows: int) -> bool:  # noqa: ARG002 - are the mean
        """See Ranks."""
        return rows > 0

    def agree_to_stop(self, wish: bool) -> bool:  # noqa: FBT001 - see Ranks
        """See Ranks."""
        return wish

    def share(self, state: T) -> T:
        """See Ranks."""
        return state


class Group:
    """The processes of the default group of torch.distributed."""

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.size = distributed.get_world_size()
        self._wish = False
        self._agreed = False

    def average(self, parameters: Sequence[Tensor], rows: int) -> bool:
        """See Ranks."""
        told = torch.tensor([float(rows), float(self._wish)])
        summed = torch.cat([*(_weighted(p, rows) for p in parameters), told])
        distributed.all_reduce(summed)
        total, wishes = summed[-2:].tolist()
        self._agreed = wishes == self.size
        if not total:
            return False
        _spread(summed[:-2] / total, parameters)
        return True

    def agree_to_stop(self, wish: bool) -> bool:  # noqa: FBT001 - see Ranks
        """See Ranks."""
        self._wish = wish
        return self._agreed

    def share(self, state: T) -> T:
        """See Ranks."""
        listed: list[Any] = [state]
        distributed.broadcast_object_list(listed)
        shared: T = listed[0]
        return shared


def joined(config: Config) -> Ranks:
    """The group that torchrun has made this process one of, or the process alone.

    Raises:
        ConfigError: there are several, and retrieval is configured, whose structure only one can learn.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    if config.retrieval is not None:
        raise ConfigError(
            f"retrieval: configured, and torchrun has started {os.environ['WORLD_SIZE']} trainers, each of "
            "which would learn a structure of its own; legal is one trainer, or no section retrieval"
        )
    # a rank may have to wait for as long as another one waits for a shard
    patience = config.parameter_server.retry_seconds + _PATIENCE_SECONDS
    distributed.init_process_group("gloo", timeout=timedelta(seconds=patience))
    return Group()


def leave(ranks: Ranks) -> None:
    """Leave the group, if it is one."""
    if ranks.size > 1:
        distributed.destroy_process_group()


def of_rank(config: Config, ranks: Ranks) -> Config:
    """`config` for one of several processes: an id, a folder and a port of its own."""
    if ranks.size == 1:
        return config
    trainer, rank = config.trainer, ranks.rank
    own = msgspec.structs.replace(
        trainer,
        trainer_id=f"{trainer.trainer_id}-rank-{rank}",
        ops_port=trainer.ops_port + rank,
    )
    return msgspec.structs.replace(config, run_dir=f"{config.run_dir}/rank-{rank}", trainer=own)


def mine(partitions: int, ranks: Ranks) -> range:
    """The partitions of the samples topic that this rank reads."""
    return range(ranks.rank, partitions, ranks.size)


def _weighted(parameter: Tensor, rows: int) -> Tensor:
    """Its gradient times `rows`, flat, on the CPU; zeros where it does not count, whatever it is."""
    if not rows or parameter.grad is None:
        return torch.zeros(parameter.numel())
    return parameter.grad.detach().flatten().cpu() * rows


def _spread(flat: Tensor, parameters: Sequence[Tensor]) -> None:
    """Make `flat` the parameters' gradients."""
    for parameter, values in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = values.reshape(parameter.shape).to(parameter.device)

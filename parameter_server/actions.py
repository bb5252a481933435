"""The Flight actions of a shard: a small request in, a small reply out. Knows no transport."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Protocol

import numpy as np

from parameter_server import messages, metrics
from parameter_server.checkpoint import Saved
from parameter_server.dense import DenseVersion
from parameter_server.errors import InvalidRequest
from parameter_server.inspect import inspect_row
from parameter_server.shard import Shard


class Keeper(Protocol):
    """What writes and restores the shard's checkpoints: its process."""

    def checkpoint(self, name: str, *, always: bool = False) -> Saved | None:
        """Write a checkpoint."""

    def restore(self, name: str) -> Saved:
        """Return to one."""

    def keep(self, prefix: str, names: Collection[str]) -> int:
        """Drop those that no recovery point needs any more."""


class Actions:
    """Answers the actions.

    Args:
        shard: of what.
        keeper: who keeps its checkpoints; None where no one does.
        load: how many requests are under way, and how many may be.
    """

    def __init__(self, shard: Shard, keeper: Keeper | None, load: Callable[[], tuple[int, int]]) -> None:
        self._shard = shard
        self._keeper = keeper
        self._load = load
        self._answers: dict[type[messages.Request], Callable[[Any], messages.Message]] = {
            messages.State: self._state,
            messages.Stats: self._stats,
            messages.Digest: self._digest,
            messages.Evict: self._evict,
            messages.PutDense: self._put_dense,
            messages.GetDense: self._get_dense,
            messages.Checkpoint: self._checkpoint,
            messages.Restore: self._restore,
            messages.Keep: self._keep,
            messages.Health: self._health,
            messages.Why: self._why,
        }

    def answer(self, request: messages.Request) -> messages.Message:
        """The reply to `request`."""
        return self._answers[type(request)](request)

    def _state(self, _request: messages.State) -> messages.StateIs:
        return messages.StateIs(*self._shard.state())

    def _stats(self, _request: messages.Stats) -> messages.StatsAre:
        state = self._shard.state()
        dense = {name: value.version for name, value in self._shard.dense.all().items()}
        rows = self._shard.row_counts()
        return messages.StatsAre(
            self._shard.index,
            state.epoch,
            state.clock,
            rows,
            state.steps,
            dense,
            self._shard.tombstone_counts(),
            self._shard.byte_counts(),
        )

    def _digest(self, request: messages.Digest) -> messages.DigestIs:
        return messages.DigestIs(*self._shard.digest(request.table))

    def _evict(self, request: messages.Evict) -> messages.Evicted:
        rows = self._shard.evict(request.table, column("ids", request.ids, "<u8"))
        metrics.EVICTIONS.inc(rows)
        return messages.Evicted(rows)

    def _put_dense(self, request: messages.PutDense) -> messages.DensePut:
        value = DenseVersion(request.version, request.step, request.payload)
        return messages.DensePut(self._shard.dense.put(request.name, value))

    def _get_dense(self, request: messages.GetDense) -> messages.DenseIs:
        found = self._shard.dense.get(request.name, request.newer_than)
        return messages.DenseIs(None if found is None else (found.version, found.step, found.payload))

    def _checkpoint(self, request: messages.Checkpoint) -> messages.CheckpointIs:
        saved = self._kept().checkpoint(request.name, always=True)
        assert saved is not None, "a checkpoint that is asked for is always written"  # noqa: S101
        return self._saved(saved)

    def _restore(self, request: messages.Restore) -> messages.CheckpointIs:
        return self._saved(self._kept().restore(request.name))

    def _keep(self, request: messages.Keep) -> messages.Dropped:
        return messages.Dropped(self._kept().keep(request.prefix, request.names))

    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise InvalidRequest("checkpoint: this shard keeps none")
        return self._keeper

    def _saved(self, saved: Saved) -> messages.CheckpointIs:
        return messages.CheckpointIs(saved.path.name, saved.clock, self._shard.epoch)

    def _health(self, _request: messages.Health) -> messages.Healthy:
        return messages.Healthy(*self._load())

    def _why(self, request: messages.Why) -> messages.RowIs:
        return inspect_row(self._shard, request.table, request.id)


def column(name: str, data: bytes, dtype: str) -> np.ndarray[Any, Any]:
    """`data` as an array of `dtype`, whose items have 8 bytes.

    Raises:
        InvalidRequest: it is not whole items.
    """
    try:
        return np.frombuffer(data, dtype)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {len(data)} bytes; legal is a multiple of 8") from error

"""When the dense parameters are published: every so often while they change, and when the stream is idle.

Rows need no publishing, replicas ask the shards for them; so where nothing is to be published, they are told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from torch import nn

from models.dense import HOLD, RANKER, dump_payload


class DenseSink(Protocol):
    """The part of the parameter server's client that takes dense versions."""

    def put_dense(self, name: str, version: int, step: int, payload: bytes) -> bool:
        """Publish a version; False if the one that is there is not older."""


class Beside(Protocol):
    """What goes out with every version of the ranker."""

    def payloads(self) -> Iterable[tuple[str, bytes]]:
        """The payloads of a version by name, in the order in which they are to be published."""


class Publisher:
    """Publishes the ranker, and what goes with it; its version is the step.

    The ranker comes last: whoever finds it finds the rest, of the same version or a later one.

    Args:
        sink: where to.
        seconds: the time between two versions while training goes on.
        clock: seconds.
        beside: what goes with it, if anything does.
    """

    def __init__(
        self,
        sink: DenseSink,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        beside: Beside | None = None,
    ) -> None:
        self._sink = sink
        self._seconds = seconds
        self._clock = clock
        self._beside = beside
        self._due = clock()
        self._told: str | None = None
        self.version = 0
        """The last version published, 0 before the first: parameters that were never trained are not."""

    def when_due(self, step: int, model: nn.Module) -> None:
        """Publish if it is time and `model`, as of `step`, is newer than what is out."""
        if self._clock() >= self._due:
            self.now(step, model)

    def hold(self, reason: str) -> None:
        """Have replicas stay as they are for `reason`, or go on where it is empty, unless they know."""
        # by the time, so that it rises over restarts, too; a clock that went back is waited for
        version = time.time_ns() // 1_000_000
        if reason != self._told and self._sink.put_dense(HOLD, version, 0, reason.encode()):
            self._told = reason

    def now(self, step: int, model: nn.Module) -> None:
        """Publish if `model`, as of `step`, is newer than what is out."""
        if step == self.version:
            return
        for name, payload in () if self._beside is None else self._beside.payloads():
            self._sink.put_dense(name, step, step, payload)
        self._sink.put_dense(RANKER, step, step, dump_payload(model))
        self.version = step
        self._due = self._clock() + self._seconds

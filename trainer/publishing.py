"""When the dense parameters are published: every so often while they change, and when the stream is idle."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from torch import nn

from models.dense import RANKER, dump_payload


class DenseSink(Protocol):
    """The part of the parameter server's client that takes dense versions."""

    def put_dense(self, name: str, version: int, step: int, payload: bytes) -> bool:
        """Publish a version; False if the one that is there is not older."""


class Publisher:
    """Publishes the ranker; its version is the step.

    Args:
        sink: where to.
        seconds: the time between two versions while training goes on.
        clock: seconds.
    """

    def __init__(self, sink: DenseSink, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._sink = sink
        self._seconds = seconds
        self._clock = clock
        self._due = clock()
        self.version = 0
        """The last version published, 0 before the first: parameters that were never trained are not."""

    def when_due(self, step: int, model: nn.Module) -> None:
        """Publish if it is time and `model`, as of `step`, is newer than what is out."""
        if self._clock() >= self._due:
            self.now(step, model)

    def now(self, step: int, model: nn.Module) -> None:
        """Publish if `model`, as of `step`, is newer than what is out."""
        if step == self.version:
            return
        self._sink.put_dense(RANKER, step, step, dump_payload(model))
        self.version = step
        self._due = self._clock() + self._seconds

"""Makes recovery points while training goes on.

First every shard is asked for a checkpoint, which it sweeps together beside the pushes; each ends at a push
of its own. What is pushed meanwhile is kept in a file. Once all have answered, the trainer's state is taken
between two steps, and written, then the manifest. So the point is: the shards' checkpoints, what each of
them lacks of the pushes kept, and the state. Training waits for no disk.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

from parameter_server.errors import ParameterServerError
from trainer import telemetry
from trainer.errors import ShardReset
from trainer.journal import Push
from trainer.manifest import Cut, Manifest, ShardPlace
from trainer.pace import Every
from trainer.points import Draft, PointStore
from trainer.retrieval import Mark
from trainer.shards import Shards

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_WAIT_SECONDS: Final = 600.0
"""Longer than any checkpoint that the client does not give up on."""


class PointMaker:
    """Makes a point every `seconds` while there is something new, and whenever asked.

    Args:
        store: where points go.
        shards: all shards.
        seconds: between the beginnings of two points.
        cut: the trainer as it is now, between two steps; with a mark, only what changed since.
        clock: seconds.
        executor: does what takes long; threads of its own unless given.
    """

    def __init__(
        self,
        store: PointStore,
        shards: Shards,
        seconds: float,
        cut: Callable[[Mark | None], Cut],
        *,
        clock: Callable[[], float] = time.monotonic,
        executor: Executor | None = None,
    ) -> None:
        self._store, self._shards, self._cut = store, shards, cut
        self._due = Every(seconds, clock)
        self._executor = executor or ThreadPoolExecutor(shards.count, thread_name_prefix="point")
        self._asked: queue.SimpleQueue[Future[Manifest]] = queue.SimpleQueue()
        self._answers: list[Future[Manifest]] = []
        self._last: Push | None = None
        self._draft: Draft | None = None
        self._saving: list[Future[ShardPlace]] = []
        self._saved_at: int | None = None
        self._writing: Future[Manifest] | None = None
        self._mark: Mark | None = None
        self._next_mark: Mark | None = None
        self.changed = False
        """Whether anything has been trained since the last cut."""

    def pushed(self, push: Push) -> None:
        """`push` is on its way; all before it have been applied."""
        self._last = push
        if self._draft is not None and self._writing is None:
            self._draft.pushes.append(push.record())

    def ask(self) -> Future[Manifest]:
        """Have a point made soon, and wait for it. From any thread."""
        answer: Future[Manifest] = Future()
        self._asked.put(answer)
        return answer

    def tick(self, *, settled: bool) -> None:
        """Do what can be done without waiting. To be called between two steps.

        Args:
            settled: whether all pushes have been applied, and no batch is read ahead.

        Raises:
            ShardReset: a shard's checkpoint is of another epoch than the pushes.
        """
        if self._draft is None:
            if not self._asked.empty() or (self.changed and self._due.due()):
                self._begin()
        elif self._writing is not None:
            if self._writing.done():
                self._written(self._writing)
        elif self._saved_by(settled=settled):
            self._take(self._draft)

    def _saved_by(self, *, settled: bool) -> bool:
        """Whether every shard has written, and none has the last push, which may be on its way."""
        if not all(saving.done() for saving in self._saving):
            return False
        last = -1 if self._last is None else self._last.step
        if self._saved_at is None:
            self._saved_at = last
        return settled or last > self._saved_at

    def finish(self) -> Manifest:
        """Make a point of the trainer as it is now, all settled, and wait for it.

        Raises:
            ParameterServerError: a shard could not write its checkpoint.
            OSError: the disk refused.
            ShardReset: as `tick`.
        """
        self._settle()
        answer = self.ask()
        self._begin()
        self._settle()
        return answer.result(0)

    def close(self) -> None:
        """Give up what is under way, and let whoever asked know."""
        if self._writing is not None:
            self._writing.exception(_WAIT_SECONDS)
        elif self._draft is not None:
            self._draft.pushes.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        while not self._asked.empty():
            self._answers.append(self._asked.get())
        self._answer(ShardReset("the trainer ended before the point was made"))

    def _settle(self) -> None:
        while self._draft is not None:
            for saving in self._saving:
                saving.exception(_WAIT_SECONDS)
            if self._writing is not None:
                self._writing.exception(_WAIT_SECONDS)
            self.tick(settled=True)

    def _begin(self) -> None:
        self._due.restart()
        self._saved_at = None
        while not self._asked.empty():
            self._answers.append(self._asked.get())
        with self._giving_up():
            self._draft = self._store.begin()
            if self._last is not None:
                # it may not have been applied yet
                self._draft.pushes.append(self._last.record())
            name = self._shards.point_name(self._draft.number)
            self._saving = [
                self._executor.submit(_timed("shard", self._shards.checkpoint), shard, name)
                for shard in range(self._shards.count)
            ]

    def _take(self, draft: Draft) -> None:
        """All shards have written: cut, and have the rest written."""
        with self._giving_up():
            places = tuple(saving.result() for saving in self._saving)
            self._shards.check([place.epoch for place in places])
            since = self._mark if self._store.may_be_followed() else None
            journal, cut = self._store.cut(), _timed("cut", self._cut)(since)
            name = self._shards.point_name(draft.number)
            self._next_mark = cut.mark
            self.changed = False
            commit = _timed("write", self._store.commit)
            self._writing = self._executor.submit(commit, draft, cut, journal, name, places)

    def _written(self, writing: Future[Manifest]) -> None:
        with self._giving_up():
            manifest = writing.result()
            self._draft = self._writing = None
            self._mark = self._next_mark
            _log.info("recovery point %d: step %d", manifest.number, manifest.step)
            telemetry.POINTS.inc()
            answers, self._answers = self._answers, []
            for answer in answers:
                answer.set_result(manifest)
            names = [point.checkpoint for point in self._store.points()]
            self._executor.submit(self._shards.keep, names)

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """A point that cannot be made is given up; the next one is due as ever."""
        try:
            yield
        except (ParameterServerError, OSError) as error:
            _log.exception("a recovery point could not be made, the one before it stays the newest")
            telemetry.POINTS_FAILED.inc()
            if self._draft is not None:
                self._draft.pushes.close()
            self._draft = self._writing = None
            self.changed = True
            self._answer(error)

    def _answer(self, error: Exception) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.set_exception(error)


def _timed(phase: str, work: Callable[P, T]) -> Callable[P, T]:
    """`work`, whose time is that of a phase of a point."""

    def timed(*args: P.args, **more: P.kwargs) -> T:
        with telemetry.POINT_SECONDS.labels(phase).time():
            return work(*args, **more)

    return timed

"""The pipeline: a batch in, the step of the batch before it out; fetched ahead, pushed behind.

With a fixed staleness: while step k computes, another thread pushes step k - 1 and fetches the vectors of
step k + 1, in one exchange, so that these always see the pushes up to k - 1 and no further. Only where the
stream pauses is the last push waited for, and the journal says so. So a run over a backlog is a function of
its samples.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

from schema.records import F32, DeadLetter
from schema.stages import pack
from trainer import telemetry
from trainer.arrivals import Arrivals, Arrived
from trainer.batches import RowBatch
from trainer.errors import RecoveryError
from trainer.journal import Push, StepRecord
from trainer.lane import Lane
from trainer.pace import Rate
from trainer.pointing import PointMaker
from trainer.points import PointStore
from trainer.shards import Shards
from trainer.state import TrainerState
from trainer.step import Computed, Fetched, Learner, Prepared
from trainer.ways import Ways

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that is read and not trained yet. `record` is what the journal has of it, if this is a replay.

    `fetched` is None where it has no rows; `settled` as in StepRecord.
    """

    batch: RowBatch
    fetched: Future[Fetched] | None
    record: StepRecord | None
    settled: bool


@dataclass(frozen=True, slots=True)
class _Due:
    """The push of a batch that has been trained, which is to go with the next fetch."""

    push: Push
    batch: RowBatch


class Pipeline:
    """Trains the batches that it is given, each while the next one's vectors are fetched.

    Args:
        learner: computes.
        state: what training changes.
        shards: take the pushes.
        store: has the journal.
        points: told of every push.
        lane: where the shards are asked.
        dead_letter: takes what cannot be used.
        arrivals: where new items come from, if retrieval is to know of them before anybody has seen them.
        ways: traced samples.
        rate: counts rows.
        lock: held while `state` changes.
    """

    def __init__(
        self,
        learner: Learner,
        state: TrainerState,
        shards: Shards,
        store: PointStore,
        points: PointMaker,
        *,
        lane: Lane,
        dead_letter: Callable[[DeadLetter], None],
        arrivals: Arrivals | None,
        ways: Ways,
        rate: Rate,
        lock: threading.Lock,
    ) -> None:
        self._learner, self._state, self._shards = learner, state, shards
        self._store, self._points, self._lane = store, points, lane
        self._dead_letter, self._arrivals, self._ways = dead_letter, arrivals, ways
        self._rate, self._lock = rate, lock
        self._ahead: _Ahead | None = None
        self._held: Push | None = None
        self._due: _Due | None = None

    @property
    def settled(self) -> bool:
        """Whether the next batch's vectors see every push: not where one is read ahead, or a push is held."""
        return self._ahead is None and self._held is None and self._due is None

    @property
    def undone(self) -> StepRecord | None:
        """The step that is being done again, and has not been done again yet."""
        return None if self._ahead is None else self._ahead.record

    def hold(self, push: Push) -> None:
        """`push` is to be done with the next batch, as it was before."""
        self._held = push

    def drain(self) -> None:
        """Train what has been read, and wait until the shards have it."""
        self._finish()
        self.release()
        self._lane.settle()

    def release(self) -> None:
        """Let the last push go now, if it still waits for the next batch's fetch to go with."""
        due, self._due = self._due, None
        if due is not None:
            self._lane.push(lambda: self._push(due))

    def follow(self, batch: RowBatch, record: StepRecord | None = None) -> None:
        """Fetch what `batch` needs, and train the batch before it meanwhile."""
        fetched = None
        if batch.rows:
            # here and not in the lane: two threads that both run Python mostly wait for each other
            prepared = self._learner.prepare(batch.columns())
            fetched = self._fetch(prepared)
        ahead = _Ahead(batch, fetched, record, settled=self.settled)
        self._finish()
        self._ahead = ahead

    def _fetch(self, prepared: Prepared) -> Future[Fetched]:
        """Have `prepared` completed once the shards have the push that is due."""
        due, self._due = self._due, None
        if due is None:
            return self._lane.fetch(lambda: self._pull(prepared))
        return self._lane.push(lambda: self._exchange(due, prepared))

    def _finish(self) -> None:
        """Train the batch that has been read, if there is one: one round of the ranks in any case."""
        self.release()
        held, self._held = self._held, None
        if held is not None:
            self._lane.push(lambda: self._shards.push(held))
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            self._learner.apply(0)
            return
        batch = ahead.batch
        for letter in batch.dead:
            self._dead_letter(letter)
        predictions = (
            self._skip(ahead) if ahead.fetched is None else self._step(ahead, ahead.fetched.result())
        )
        with self._lock:
            self._state.read(batch)
            if predictions is not None:
                self._state.score(batch.columns(), predictions)
                self._rate.add(batch.rows)
        self._points.changed = True
        self._count(batch, trained=predictions is not None)

    def _skip(self, ahead: _Ahead) -> F32 | None:
        """Note what a batch without rows has read; None: there is nothing to score."""
        batch, record = ahead.batch, ahead.record
        if record is None:
            step, runs = self._state.counters.step, tuple(batch.runs)
            self._store.append(StepRecord(step, runs, 0, ahead.settled))
        else:
            _check_replay(batch, record)
        self._learner.apply(0)
        return None

    def _step(self, ahead: _Ahead, fetched: Fetched) -> F32 | None:
        """One step; the predictions f32 (n, T), None if its gradients were refused."""
        batch, record = ahead.batch, ahead.record
        step = self._state.counters.step + 1 if record is None else record.step
        arrived = self._arrived() if record is None else record.arrived
        computed = self._compute(fetched, batch, step, arrived)
        telemetry.STEP_SECONDS.labels("compute").observe(computed.seconds)
        if record is None:
            self._store.append(StepRecord(step, tuple(batch.runs), batch.rows, ahead.settled, arrived))
        else:
            _check_replay(batch, record)
        self._state.counters.step = step
        if computed.gradients is None:
            self._refuse(step, batch.rows)
            self._learner.apply(0)
            return None
        push = Push(step, int(batch.columns().event_times().max()), computed.gradients)
        self._lane.settle()
        self._due = _Due(push, batch)
        self._points.pushed(push)
        self._learner.apply(batch.rows)
        return computed.predictions

    def _arrived(self) -> Arrived:
        """The items that the next step takes from the catalogue."""
        retrieval = self._learner.retrieval
        if retrieval is None or self._arrivals is None:
            return Arrived()
        return self._arrivals.take(retrieval.learner.structure.remembers)

    def _compute(self, fetched: Fetched, batch: RowBatch, step: int, arrived: Arrived) -> Computed:
        """Compute the ranker's part, while retrieval's rows are fetched, and then retrieval's."""
        learner = self._learner
        wanted = learner.seek(batch.columns(), step, arrived)
        if wanted is None:
            return learner.compute(fetched, step)
        rows = self._lane.fetch(lambda: learner.rows(wanted))
        computed = learner.compute(fetched, step)
        return learner.compute_retrieval(wanted, rows.result(), computed)

    def _pull(self, prepared: Prepared) -> Fetched:
        with telemetry.STEP_SECONDS.labels("pull").time():
            return self._learner.complete(prepared)

    def _push(self, due: _Due) -> None:
        with self._told(due) as completed_at, telemetry.STEP_SECONDS.labels("push").time():
            self._shards.push(due.push, completed_at)

    def _exchange(self, due: _Due, prepared: Prepared) -> Fetched:
        """`_push`, and then `_pull`."""
        with self._told(due) as completed_at, telemetry.STEP_SECONDS.labels("exchange").time():
            ids = prepared.batch.ids
            return Fetched(prepared, self._shards.push_and_pull(due.push, completed_at, ids))

    @contextmanager
    def _told(self, due: _Due) -> Iterator[list[int]]:
        """When samples of a push were complete, as shards are told; they have it at the end."""
        picked = self._ways.picked(due.batch.columns(), _now_ms())
        yield pack(picked)
        self._ways.published(picked, _now_ms())

    def _refuse(self, step: int, rows: int) -> None:
        _log.error("step %d: its gradients are not finite; its %d rows train nothing", step, rows)
        self._state.counters.refused_rows += rows
        telemetry.REFUSED.inc(rows)

    def _count(self, batch: RowBatch, *, trained: bool) -> None:
        telemetry.DUPLICATES.inc(batch.duplicates)
        telemetry.DEAD_LETTERS.inc(len(batch.dead))
        if trained:
            telemetry.STEPS.inc()
            telemetry.ROWS.inc(batch.rows)


def _check_replay(batch: RowBatch, record: StepRecord) -> None:
    if batch.rows != record.rows:
        raise RecoveryError(
            f"step {record.step}: its samples, read again, have {batch.rows} rows and had {record.rows}; the "
            "topic is not the one that was trained on; legal is that topic, or another run_dir"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

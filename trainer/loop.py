"""The centre: read a batch, compute, journal, push, apply, count; between steps publish and make points.

Pipelined, with a fixed staleness: while step k computes, another thread pushes step k - 1 and then fetches
the vectors of step k + 1, so that these always see the pushes up to k - 1 and no further. Only where the
stream pauses is the last push waited for, and the journal says so. So a run over a backlog is a function of
its samples.

Exactly: after a kill of this process, or of a shard, everything returns to the newest recovery point, and the
steps since are done again as the journal has them. So whatever died, the outcome is as if nothing had.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from schema.config import Config
from schema.records import F32, DeadLetter
from schema.stages import pack
from trainer import telemetry
from trainer.arrivals import Arrivals, Arrived
from trainer.batches import Batcher, RowBatch
from trainer.checkpoint import encode_image
from trainer.entries import Position
from trainer.errors import RecoveryError, RollBack
from trainer.evaluation import Quality
from trainer.feed import Feed
from trainer.journal import Push, StepRecord
from trainer.lane import Lane
from trainer.manifest import Cut, Manifest
from trainer.pace import Every, Rate
from trainer.pointing import PointMaker
from trainer.points import Loaded, PointStore
from trainer.publishing import Publisher
from trainer.ranks import Alone, Ranks
from trainer.shards import Client, Shards
from trainer.state import TrainerState
from trainer.step import Computed, Fetched, Learner
from trainer.ways import Ways

_log = logging.getLogger(__name__)

_REPLAY_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 2.0
_RATE_SECONDS: Final = 5.0
_COMMIT_SECONDS: Final = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A batch that is read and not trained yet. `record` is what the journal has of it, if this is a replay.

    `fetched` is None where it has no rows; `settled` as in StepRecord.
    """

    batch: RowBatch
    fetched: Future[Fetched] | None
    record: StepRecord | None
    settled: bool


class Trainer:
    """Trains on a feed of sample blocks until told to stop, or until everything has to return to a point.

    Args:
        config: the whole configuration.
        feed: the samples.
        client: the parameter server.
        store: the recovery points.
        dead_letter: takes what cannot be used; after a crash it may be told again.
        clock: seconds.
        lane: where the shards are asked.
        executor: makes recovery points; threads of its own unless given.
        arrivals: where new items come from, if retrieval is to know of them before anybody has seen them.
        ranks: the processes that this one learns the dense model with.
        watch: told the step and the metrics now and then.
    """

    def __init__(
        self,
        config: Config,
        feed: Feed,
        client: Client,
        store: PointStore,
        dead_letter: Callable[[DeadLetter], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        lane: Lane | None = None,
        executor: Executor | None = None,
        arrivals: Arrivals | None = None,
        ranks: Ranks | None = None,
        watch: Callable[[int, Quality], None] = telemetry.observe_quality,
    ) -> None:
        settings = config.trainer
        self._feed, self._store, self._dead_letter, self._clock = feed, store, dead_letter, clock
        self._arrivals = arrivals
        self._ways = Ways(settings.traces_per_step)
        self._ranks = ranks or Alone()
        self._watch = watch
        self._learner = Learner(config, client, ranks=self._ranks)
        self.state = TrainerState(config, self._learner, history=feed.history)
        wait = settings.batch_wait_seconds
        self._batcher = Batcher(feed, self.state.duplicates, settings.batch_rows, wait, clock)
        self._publisher = Publisher(client, config.sync.dense_seconds, clock, self._learner.retrieval)
        self._shards = Shards(client, settings.trainer_id)
        self._points = PointMaker(
            store, self._shards, settings.recovery_seconds, self._cut, clock=clock, executor=executor
        )
        self._look_due = Every(_LOOK_SECONDS, clock)
        self._commit_due = Every(_COMMIT_SECONDS, clock)
        self._idle = Every(_IDLE_SECONDS, clock)
        self._rate = Rate(_RATE_SECONDS, clock)
        self._lane = lane or Lane()
        self._ahead: _Ahead | None = None
        self._held: Push | None = None
        self._roll_back_to: int | None = None
        # the ops endpoint reports while the loop trains
        self._lock = threading.Lock()
        self.consuming = False

    def run(self, stop: Callable[[], bool]) -> None:
        """Recover, then train until `stop`; at the end publish, and make a last recovery point.

        Raises:
            RecoveryError: the recovery state cannot be gone on from.
            ParameterServerError: a shard stayed away too long, or failed.
            SourceFailed: the samples cannot be read.
            Returning: another trainer has to go on from the newest recovery point.
        """
        if not self.recover(stop):
            return
        self.consuming = True
        while not self._ranks.agree_to_stop(stop()):
            self.advance()
        self.drain()
        self._publish_now()
        self.point()

    def close(self) -> None:
        """Give up what is under way."""
        self._points.close()
        self._lane.close()

    def advance(self) -> bool:
        """Read one batch if one comes, train the one before it, and do what is due; whether one came."""
        if self._roll_back_to is not None:
            raise RollBack(self._roll_back_to)
        batch = self._batcher.next()
        if batch is not None:
            self._follow(batch)
            self._idle.restart()
        elif self._batcher.paused or self._ranks.size > 1:
            # others may wait for this rank's round
            self.drain()
            if self._idle.due():
                self._publish_now()
        if self._look_due.due():
            self._lane.settle()
            self._shards.look()
            self._watch(self.state.counters.step, self.state.evaluation.quality())
        if self._may_publish():
            self._publisher.when_due(self.state.counters.step, self._learner.model)
        if self._commit_due.due():
            self._feed.commit(self.state.positions)
        self._points.tick(settled=self._settled)
        return batch is not None

    def recover(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Return to the newest recovery point, and do the steps since as they were done; False if stopped.

        Where there is no point, there is one afterwards.
        """
        loaded = self._store.load()
        if loaded is None:
            self._begin()
            return True
        self._return(loaded)
        for record in loaded.records if loaded.image.history == self._feed.history else ():
            if stop() and self._ranks.size == 1:
                return False
            if record.settled:
                self.drain()
            self._follow(self._batcher.again(record.runs, _REPLAY_SECONDS), record)
            self.state.counters.replayed_steps += record.rows > 0
        if loaded.records:
            # so that kills in quick succession do not have the same steps done again and again
            self._points.ask()
        point, steps = loaded.manifest, len(loaded.records)
        _log.info("back at point %d, step %d; %d steps follow", point.number, point.step, steps)
        return True

    def _begin(self) -> None:
        counters = self.state.counters
        counters.step = self._shards.look()
        if counters.step:
            _log.warning(
                "the shards have steps up to %d that this trainer has no record of; it goes on from there",
                counters.step,
            )
        self.state.share_dense(self._ranks)
        self._feed.start(self.state.positions)
        self.point()

    def _return(self, loaded: Loaded) -> None:
        """Become what the point says, and have the shards become it.

        Where other ranks push, too, the shards stay as they are: they know which pushes they have had.
        """
        point = loaded.manifest
        self.state.restore(loaded.image)
        self.state.share_dense(self._ranks)
        if self._ranks.size == 1:
            self._shards.return_to(point)
        for push in loaded.pushes:
            self._points.pushed(push)
            if push.step < point.step or point.settled:
                self._shards.push(push)
            else:
                self._held = push
        self._feed.start(self.state.positions)

    def point(self) -> Manifest:
        """Train what has been read, and make a recovery point."""
        self.drain()
        point = self._points.finish()
        self._feed.commit(self.state.positions)
        return point

    def ask_point(self) -> Future[Manifest]:
        """Have a recovery point made soon. From any thread."""
        return self._points.ask()

    def roll_back(self, number: int) -> None:
        """Have this trainer give up, for another to go on from point `number`. From any thread."""
        self._roll_back_to = number

    @property
    def idle(self) -> bool:
        """Whether all samples that there were have been trained on."""
        return self._batcher.paused and self._settled

    @property
    def _settled(self) -> bool:
        """Whether the next batch's vectors see every push: not where one is read ahead, or a push is held."""
        return self._ahead is None and self._held is None

    def _cut(self) -> Cut:
        """The trainer as it is between two steps. Its push may be on its way."""
        ahead, counters = self._ahead, self.state.counters
        if ahead is not None and ahead.record is not None:
            # a step that is being done again, and has not been done again yet
            self._store.append(ahead.record)
        return Cut(
            state=encode_image(self.state.image()),
            made_at=_now_ms(),
            step=counters.step,
            rows=counters.rows,
            settled=self._settled,
            positions=dict(self.state.positions),
        )

    def report(self) -> tuple[dict[str, Any], Mapping[int, Position]]:
        """What has been trained and how well, and up to where the samples have been. From any thread."""
        with self._lock:
            report = self.state.report()
            report["samples_per_second"] = self._rate.value()
            report["dense_version"] = self._publisher.version
            report["traces"] = self._ways.recent()
            report["dense_digest"] = self._learner.digest()
            return report, dict(self.state.positions)

    def drain(self) -> None:
        """Train what has been read, and wait until the shards have it."""
        self._finish()
        self._lane.settle()

    def _follow(self, batch: RowBatch, record: StepRecord | None = None) -> None:
        """Fetch what `batch` needs, and train the batch before it meanwhile."""
        fetched = None
        if batch.rows:
            # here and not in the lane: two threads that both run Python mostly wait for each other
            prepared = self._learner.prepare(batch.pieces)
            fetched = self._lane.fetch(lambda: self._learner.complete(prepared))
        ahead = _Ahead(batch, fetched, record, settled=self._settled)
        self._finish()
        self._ahead = ahead

    def _finish(self) -> None:
        """Train the batch that has been read, if there is one: one round of the ranks in any case."""
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
            self.state.read(batch)
            if predictions is not None:
                self.state.score(batch, predictions)
                self._rate.add(batch.rows)
        self._points.changed = True
        self._count(batch, trained=predictions is not None)

    def _skip(self, ahead: _Ahead) -> F32 | None:
        """Note what a batch without rows has read; None: there is nothing to score."""
        batch, record = ahead.batch, ahead.record
        if record is None:
            step, runs = self.state.counters.step, tuple(batch.runs)
            self._store.append(StepRecord(step, runs, 0, ahead.settled))
        else:
            _check_replay(batch, record)
        self._learner.apply(0)
        return None

    def _step(self, ahead: _Ahead, fetched: Fetched) -> F32 | None:
        """One step; the predictions f32 (n, T), None if its gradients were refused."""
        batch, record = ahead.batch, ahead.record
        step = self.state.counters.step + 1 if record is None else record.step
        arrived = self._arrived() if record is None else record.arrived
        computed = self._compute(fetched, batch, step, arrived)
        telemetry.STEP_SECONDS.labels("pull").observe(fetched.seconds)
        telemetry.STEP_SECONDS.labels("compute").observe(computed.seconds)
        if record is None:
            self._store.append(StepRecord(step, tuple(batch.runs), batch.rows, ahead.settled, arrived))
        else:
            _check_replay(batch, record)
        self.state.counters.step = step
        if computed.gradients is None:
            self._refuse(step, batch.rows)
            self._learner.apply(0)
            return None
        push = Push(step, max(p.event_time for p in batch.pieces), computed.gradients)
        self._lane.push(lambda: self._push(push, batch))
        self._points.pushed(push)
        self._learner.apply(batch.rows)
        return computed.predictions

    def _arrived(self) -> Arrived:
        """The items that the next step takes from the catalogue."""
        retrieval = self._learner.retrieval
        if retrieval is None or self._arrivals is None:
            return Arrived()
        return self._arrivals.take(retrieval.learner.structure.__contains__)

    def _compute(self, fetched: Fetched, batch: RowBatch, step: int, arrived: Arrived) -> Computed:
        """Compute the ranker's part, while retrieval's rows are fetched, and then retrieval's."""
        learner = self._learner
        wanted = learner.seek(batch.pieces, step, arrived)
        if wanted is None:
            return learner.compute(fetched, step)
        rows = self._lane.fetch(lambda: learner.rows(wanted))
        computed = learner.compute(fetched, step)
        return learner.compute_retrieval(wanted, rows.result(), computed)

    def _push(self, push: Push, batch: RowBatch) -> None:
        picked = self._ways.picked(batch.pieces, _now_ms())
        with telemetry.STEP_SECONDS.labels("push").time():
            self._shards.push(push, pack(picked))
        self._ways.published(picked, _now_ms())

    def _refuse(self, step: int, rows: int) -> None:
        _log.error("step %d: its gradients are not finite; its %d rows train nothing", step, rows)
        self.state.counters.refused_rows += rows
        telemetry.REFUSED.inc(rows)

    def _count(self, batch: RowBatch, *, trained: bool) -> None:
        telemetry.DUPLICATES.inc(batch.duplicates)
        telemetry.DEAD_LETTERS.inc(len(batch.dead))
        if trained:
            telemetry.STEPS.inc()
            telemetry.ROWS.inc(batch.rows)

    def resume(self) -> str | None:
        """Publish again though the guard had stopped it; why it had, None if it had not. From any thread."""
        with self._lock:
            return None if self.state.guard is None else self.state.guard.resume()

    def _may_publish(self) -> bool:
        return self._ranks.rank == 0 and (self.state.guard is None or self.state.guard.breach is None)

    def _publish_now(self) -> None:
        if not self._may_publish():
            return
        self._publisher.now(self.state.counters.step, self._learner.model)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_replay(batch: RowBatch, record: StepRecord) -> None:
    if batch.rows != record.rows:
        raise RecoveryError(
            f"step {record.step}: its samples, read again, have {batch.rows} rows and had {record.rows}; the "
            "topic is not the one that was trained on; legal is that topic, or another run_dir"
        )

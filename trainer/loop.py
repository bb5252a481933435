"""The centre: read a batch, compute, journal, push, apply, count; between steps checkpoint and publish.

Pipelined, with a fixed staleness: while step k computes, another thread pushes step k - 1 and then fetches
the vectors of step k + 1, so that these always see the pushes up to k - 1 and no further. Only where the
stream pauses is the last push waited for, and the journal says so. So a run over a backlog is a function of
its samples.

Exactly once: a step is journalled before it is pushed, and what recovery replays is what the journal says,
under the same step numbers, which the shards apply once each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from schema.config import Config
from schema.records import F32, DeadLetter
from schema.stages import pack
from trainer import telemetry
from trainer.arrivals import Arrivals, Arrived
from trainer.batches import Batcher, RowBatch
from trainer.entries import Position
from trainer.errors import RecoveryError
from trainer.evaluation import Quality
from trainer.feed import Feed
from trainer.journal import StepRecord
from trainer.lane import Lane
from trainer.lost import Loss
from trainer.pace import Every, Rate
from trainer.publishing import Publisher
from trainer.ranks import Alone, Ranks
from trainer.recovery import RecoveryStore
from trainer.shards import Client, Shards
from trainer.state import TrainerState
from trainer.step import Computed, Fetched, Gradients, Learner
from trainer.ways import Ways

_log = logging.getLogger(__name__)

_REPLAY_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 2.0
_RATE_SECONDS: Final = 5.0

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
    """Trains on a feed of sample blocks until told to stop.

    Args:
        config: the whole configuration.
        feed: the samples.
        client: the parameter server.
        store: the recovery state.
        dead_letter: takes what cannot be used; after a crash it may be told again.
        clock: seconds.
        lane: where the shards are asked.
        arrivals: where new items come from, if retrieval is to know of them before anybody has seen them.
        ranks: the processes that this one learns the dense model with.
        watch: told the step and the metrics now and then.
    """

    def __init__(
        self,
        config: Config,
        feed: Feed,
        client: Client,
        store: RecoveryStore,
        dead_letter: Callable[[DeadLetter], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        lane: Lane | None = None,
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
        self.state = TrainerState(config, self._learner, client.shards)
        wait = settings.batch_wait_seconds
        self._batcher = Batcher(feed, self.state.duplicates, settings.batch_rows, wait, clock)
        self._publisher = Publisher(client, config.sync.dense_seconds, clock, self._learner.retrieval)
        # it may have come back without the last version
        restarted = self._publisher.forget
        self._shards = Shards(client, settings.trainer_id, self.state.watch, self._lost, restarted)
        self._checkpoint_due = Every(settings.checkpoint_seconds, clock)
        self._look_due = Every(_LOOK_SECONDS, clock)
        self._idle = Every(_IDLE_SECONDS, clock)
        self._rate = Rate(_RATE_SECONDS, clock)
        self._changed = False
        self._lane = lane or Lane()
        self._ahead: _Ahead | None = None
        # the ops endpoint reports while the loop trains
        self._lock = threading.Lock()
        self.consuming = False

    def run(self, stop: Callable[[], bool]) -> None:
        """Recover, then train until `stop`; at the end checkpoint and publish.

        Raises:
            RecoveryError: the recovery state cannot be gone on from.
            ParameterServerError: a shard stayed away too long, or failed.
            SourceFailed: the samples cannot be read.
        """
        self.recover()
        self.consuming = True
        while not self._ranks.agree_to_stop(stop()):
            self.advance()
        self.drain()
        self.checkpoint()
        self._publish_now()

    def close(self) -> None:
        """Give up what is under way."""
        self._lane.close()

    def advance(self) -> bool:
        """Read one batch if one comes, train the one before it, and do what is due; whether one came."""
        batch = self._batcher.next()
        if batch is not None:
            self._follow(batch)
            self._idle.restart()
        else:
            self.drain()
            if self._idle.due():
                self._publish_now()
        if self._look_due.due():
            self._lane.settle()
            self._shards.look()
            self._watch(self.state.counters.step, self.state.evaluation.quality())
        if self._may_publish():
            self._publisher.when_due(self.state.counters.step, self._learner.model)
        if self._changed and self._checkpoint_due.due():
            self.checkpoint()
        return batch is not None

    def recover(self) -> None:
        """Become what the last process was at its last journalled step, and save that."""
        image, records = self._store.load()
        if image is not None:
            self.state.restore(image)
        self.state.share_dense(self._ranks)
        self._feed.start(self.state.positions)
        highest = self._shards.look()
        for record in records:
            if record.settled:
                self.drain()
            self._follow(self._batcher.again(record.runs, _REPLAY_SECONDS), record)
            self.state.counters.replayed_steps += record.rows > 0
        self.drain()
        counters = self.state.counters
        _log.info("at step %d, %d of them replayed, %d rows", counters.step, len(records), counters.rows)
        if highest > counters.step:
            _log.warning(
                "the shards have steps up to %d that this trainer has no record of; it goes on from there",
                highest,
            )
            counters.step = highest
        self.checkpoint()

    def checkpoint(self) -> None:
        """Write a checkpoint as of the last batch trained; one that is only read is read again after it."""
        self._lane.settle()
        self._store.save(self.state.image())
        self._feed.commit(self.state.positions)
        self._checkpoint_due.restart()
        self._changed = False

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
        fetched = self._lane.fetch(lambda: self._learner.fetch(batch.pieces)) if batch.rows else None
        ahead = _Ahead(batch, fetched, record, settled=self._ahead is None)
        self._finish()
        self._ahead = ahead

    def _finish(self) -> None:
        """Train the batch that has been read, if there is one: one round of the ranks in any case."""
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
        self._changed = True
        self._count(batch, trained=predictions is not None)

    def _skip(self, ahead: _Ahead) -> F32 | None:
        """Note what a batch without rows has read; None: there is nothing to score."""
        batch, record = ahead.batch, ahead.record
        if record is None:
            step, runs = self.state.counters.step, tuple(batch.runs)
            self._store.append(StepRecord(step, runs, 0, b"", settled=ahead.settled))
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
            record = self._journal(ahead, step, computed, arrived)
        else:
            _check_replay(batch, record)
        self.state.counters.step = record.step
        if record.refused or computed.gradients is None:
            self._refuse(record.step, batch.rows)
            self._learner.apply(0)
            return None
        gradients = computed.gradients
        self._lane.push(lambda: self._push(step, batch, gradients))
        self._learner.apply(batch.rows)
        return record.prediction_matrix()

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

    def _journal(self, ahead: _Ahead, step: int, computed: Computed, arrived: Arrived) -> StepRecord:
        batch, predictions = ahead.batch, computed.predictions.tobytes()
        refused = computed.gradients is None
        runs, rows = tuple(batch.runs), batch.rows
        record = StepRecord(step, runs, rows, predictions, refused, ahead.settled, arrived)
        self._store.append(record)
        return record

    def _push(self, step: int, batch: RowBatch, gradients: Gradients) -> None:
        newest = max(p.event_time for p in batch.pieces)
        picked = self._ways.picked(batch.pieces, _now_ms())
        with telemetry.STEP_SECONDS.labels("push").time():
            self._shards.push(step, batch.rows, gradients, newest, pack(picked))
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

    def _lost(self, loss: Loss) -> None:
        with self._lock:
            self.state.lost.append(loss)

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

"""The centre: read a batch, have the pipeline train it; between steps publish and make recovery points.

Exactly: after a kill of this process, or of a shard, everything returns to the newest recovery point, and the
steps since are done again as the journal has them. So whatever died, the outcome is as if nothing had.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final

from schema.config import Config
from schema.records import DeadLetter
from trainer import telemetry
from trainer.arrivals import Arrivals
from trainer.batches import Batcher
from trainer.entries import Position
from trainer.errors import RollBack
from trainer.evaluation import Quality
from trainer.feed import Feed
from trainer.lane import Lane
from trainer.manifest import Cut, Manifest
from trainer.pace import Every, Rate
from trainer.pipeline import Pipeline
from trainer.pointing import PointMaker
from trainer.points import Loaded, PointStore
from trainer.publishing import Publisher
from trainer.ranks import Alone, Ranks
from trainer.retrieval import Mark
from trainer.shards import Client, Shards
from trainer.state import TrainerState
from trainer.step import Learner
from trainer.ways import Ways

_log = logging.getLogger(__name__)

_REPLAY_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 2.0
_RATE_SECONDS: Final = 5.0
_COMMIT_SECONDS: Final = 5.0


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
        self._feed, self._store = feed, store
        self._ways = Ways(settings.traces_per_step)
        self._ranks = ranks or Alone()
        self._watch = watch
        self._learner = Learner(config, client, ranks=self._ranks, places=client.shards_of)
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
        self._roll_back_to: int | None = None
        # the ops endpoint reports while the loop trains
        self._lock = threading.Lock()
        self._pipeline = Pipeline(
            self._learner,
            self.state,
            self._shards,
            store,
            self._points,
            lane=self._lane,
            dead_letter=dead_letter,
            arrivals=arrivals,
            ways=self._ways,
            rate=self._rate,
            lock=self._lock,
        )
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
        batch = self._batcher.next(before_waiting=self._pipeline.release)
        if batch is not None:
            self._pipeline.follow(batch)
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
        self._tell_hold()
        if self._may_publish():
            self._publisher.when_due(self.state.counters.step, self._learner.model)
        if self._commit_due.due():
            self._feed.commit(self.state.positions)
        self._points.tick(settled=self._pipeline.settled)
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
            self._pipeline.follow(self._batcher.again(record.runs, _REPLAY_SECONDS), record)
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
                self._pipeline.hold(push)
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
        return self._batcher.paused and self._pipeline.settled

    def _cut(self, since: Mark | None) -> Cut:
        """The trainer as it is between two steps. Its push may be on its way."""
        undone = self._pipeline.undone
        if undone is not None:
            self._store.append(undone)
        counters = self.state.counters
        return Cut(
            state=self.state.image(since),
            follows=since is not None,
            mark=self.state.mark(),
            made_at=time.time_ns() // 1_000_000,
            step=counters.step,
            rows=counters.rows,
            settled=self._pipeline.settled,
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
        self._pipeline.drain()

    def resume(self) -> str | None:
        """Publish again though the guard had stopped it; why it had, None if it had not. From any thread."""
        with self._lock:
            return None if self.state.guard is None else self.state.guard.resume()

    def _tell_hold(self) -> None:
        guard = self.state.guard
        if guard is not None and self._ranks.rank == 0:
            self._publisher.hold(guard.breach or "")
            telemetry.HELD.set(guard.breach is not None)

    def _may_publish(self) -> bool:
        return self._ranks.rank == 0 and (self.state.guard is None or self.state.guard.breach is None)

    def _publish_now(self) -> None:
        if not self._may_publish():
            return
        self._publisher.now(self.state.counters.step, self._learner.model)

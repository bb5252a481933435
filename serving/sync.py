"""Keeps the served parameters a round behind the shards at most, and measures how fresh they are.

A round is fetched and checked as a whole before any of it becomes visible; one that fails changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from prometheus_client import Counter, Gauge, Histogram

from models.dense import HOLD, RANKER, PayloadError, load_payload
from models.mmoe import MMoE
from models.retrieval.delta import StructureError
from models.retrieval.shipping import RETRIEVAL, STRUCTURE
from parameter_server.delta import Delta
from parameter_server.errors import DeltaError, ParameterServerError
from schema.config import SyncConfig
from schema.stages import unpack
from serving.freshness import Freshness
from serving.parameters import Dense, Parameters
from serving.schedule import Change, Schedule, Settings
from serving.stages import Stages
from serving.structure import Learned, Updates
from serving.traces import Traces

_log = logging.getLogger(__name__)

RoundError: Final = (ParameterServerError, PayloadError, StructureError)
"""What a round may fail with: a shard is away, or what it sent is damaged or not ours."""

_RETRY_SECONDS: Final = 1.0
_TRIES: Final = 3
"""How often the parts of a version are asked for, in case the next is published in between."""
_ROUNDS: Final = Counter("headwater_sync_rounds", "Rounds of parameters applied.")
_FAILED: Final = Counter("headwater_sync_rounds_failed", "Rounds that failed and changed nothing.")
_SECONDS: Final = Histogram("headwater_sync_seconds", "Time to fetch and apply a round.")
_ROWS: Final = Counter("headwater_sync_rows", "Rows received in deltas.")
_CLOCK: Final = Gauge("headwater_replica_clock", "The clock that the served rows are of.", ["shard"])
_DENSE: Final = Gauge("headwater_replica_dense_version", "The dense version served.")


_Published = tuple[int, int, bytes]


class Source(Protocol):
    """Where rounds come from. `parameter_server.client.ParameterClient` is one."""

    def delta(self, shard: int, since: tuple[int, int] | None) -> Delta:
        """What changed in a shard since (epoch, clock), or all of it."""

    def get_dense(self, name: str, newer_than: int) -> tuple[int, int, bytes] | None:
        """(version, step, payload) of dense weights above version `newer_than`, if there are any."""

    def close(self) -> None:
        """Give up what is under way."""


@dataclass(frozen=True, slots=True)
class SyncState:
    """How the rounds go. `error` is why the last one failed, if it did; `paused_at` is in Unix ms.

    `held` is why the trainer's guard has what is served stay as it is, None while it does not.
    """

    rounds: int = 0
    failed: int = 0
    applied_at: float | None = None
    error: str | None = None
    paused_at: int | None = None
    held: str | None = None


class Synchroniser:
    """Runs rounds as `SyncConfig` says: rows of every shard, dense weights, or both.

    Args:
        source: the shards.
        parameters: what the rounds become visible in.
        shards: how many there are.
        new_model: an untrained model, for the dense weights to be loaded into.
        retrieval: takes in what retrieval serves with; None where it is not configured.
        config: how often.
        guarded: whether the trainer has a guard, which may hold rounds back.
        freeze_after: seconds after the first trained model from which on no rounds are taken; None: never.
        freshness: where the age of what a round made servable is noted.
        stages: where its way there is noted.
        clock: Unix ms.
        monotonic: seconds, never going back.
    """

    def __init__(
        self,
        source: Source,
        parameters: Parameters,
        *,
        shards: int,
        new_model: Callable[[], MMoE],
        retrieval: Updates | None = None,
        config: SyncConfig,
        guarded: bool = False,
        freeze_after: float | None = None,
        freshness: Freshness,
        stages: Stages,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._source = source
        self._parameters = parameters
        self._new_model = new_model
        self._retrieval = retrieval
        self._guarded = guarded
        self.schedule = Schedule(config, freeze_after, monotonic())
        self._freshness = freshness
        self._stages = stages
        self._clock = clock
        self._monotonic = monotonic
        self._one_round = threading.Lock()
        self._since: list[tuple[int, int] | None] = [None] * shards
        self._dense_version = 0
        self._traces = Traces(shards)
        self._ready = False
        self.state = SyncState()
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether a first snapshot of every shard is served."""
        return self._ready

    def start(self) -> None:
        """Begin the rounds."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """End them, within `timeout` seconds."""
        self._stop.set()
        self._wake.set()
        self._source.close()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def run_round(self, *, sparse: bool = True, dense: bool = True) -> None:
        """Fetch and apply one round of rows, dense weights, or both, unless the trainer's guard holds.

        Raises:
            ParameterServerError: a shard is away, or a delta is damaged or does not follow.
            PayloadError: the dense weights are damaged, or another model's.
            StructureError: retrieval's structure is damaged, or not there in the version of the ranker.
        """
        with self._one_round, _SECONDS.time():
            try:
                held = self._held()
                if held is None:
                    self._round(sparse=sparse, dense=dense)
            except RoundError as error:
                _FAILED.inc()
                self.state = replace(self.state, failed=self.state.failed + 1, error=str(error))
                raise
            if held is not None:
                self.state = replace(self.state, held=held, error=None)
                return
            _ROUNDS.inc()
            self.state = replace(
                self.state,
                rounds=self.state.rounds + 1,
                applied_at=self._monotonic(),
                error=None,
                held=None,
            )

    def tick(self) -> float:
        """Run what is due, and return the seconds until something is again."""
        sparse, dense = self.schedule.due(self._monotonic())
        if sparse or dense:
            # a first round is of everything
            sparse, dense = sparse or not self.ready, dense or not self.ready
            try:
                self.run_round(sparse=sparse, dense=dense)
            except RoundError as error:
                _log.warning("a round failed, the one before it is served on: %s", error)
                self.schedule.retry(self._monotonic() + _RETRY_SECONDS, sparse=sparse, dense=dense)
        elif self.schedule.settings.paused and self.state.paused_at is None:
            _log.warning("no more rounds are taken; what is served stays as it is")
            self.state = replace(self.state, paused_at=self._clock())
        return self.schedule.wait(self._monotonic())

    def change(self, change: Change) -> Settings:
        """Take rounds otherwise from now on."""
        settings = self.schedule.change(self._monotonic(), change)
        self.state = replace(self.state, paused_at=self._clock() if settings.paused else None)
        self._wake.set()
        return settings

    def _run(self) -> None:
        while not self._stop.is_set():
            wait = self.tick()
            self._wake.wait(wait)
            self._wake.clear()

    def _held(self) -> str | None:
        """Why the guard holds; None too before the first snapshot: something has to be served."""
        if not (self._guarded and self._ready):
            return None
        found = self._source.get_dense(HOLD, 0)
        held = found[2].decode(errors="replace") if found is not None else ""
        if bool(held) != (self.state.held is not None):
            _log.warning("the guard %s", f"holds rounds back: {held}" if held else "lets rounds go on")
        return held or None

    def _round(self, *, sparse: bool, dense: bool) -> None:
        try:
            # dense first: rows a little newer than the dense weights are what training itself sees
            weights = self._fetch_dense() if dense else None
            deltas = self._fetch_deltas() if sparse else []
            self._parameters.replace(deltas, weights)
        except DeltaError:
            # what does not follow will not follow the next time either
            self._since = [None] * len(self._since)
            raise
        now = self._clock()
        if weights is not None:
            self._dense_version = weights.version
            _DENSE.set(weights.version)
            self.schedule.trained(self._monotonic())
        if sparse:
            self._follow(deltas, now)

    def _fetch_dense(self) -> Dense | None:
        found = self._source.get_dense(RANKER, self._dense_version)
        if found is None:
            return None
        learned = None
        if self._retrieval is not None:
            found, learned = self._fetch_learned(self._retrieval, found)
        version, step, payload = found
        model = self._new_model()
        load_payload(model, payload)
        return Dense(version, step, model.eval(), learned)

    def _fetch_learned(self, retrieval: Updates, ranker: _Published) -> tuple[_Published, Learned | None]:
        """What retrieval has of the version of `ranker`, and that; or both of a newer version.

        A trainer without retrieval publishes none: None.
        """
        for _ in range(_TRIES):
            beside = self._source.get_dense(RETRIEVAL, 0)
            if beside is None:
                return ranker, None
            if beside[0] == ranker[0]:
                return ranker, retrieval.follow(beside[2], self._snapshot)
            # the next version was published in between, or is being published
            ranker = self._source.get_dense(RANKER, ranker[0]) or ranker
        raise StructureError(f"retrieval: is not published in the version of the ranker, {ranker[0]}")

    def _snapshot(self) -> bytes:
        """The newest whole structure."""
        found = self._source.get_dense(STRUCTURE, 0)
        if found is None:
            raise StructureError("structure: none is published, though retrieval is")
        return found[2]

    def _fetch_deltas(self) -> list[Delta]:
        deltas = []
        for shard, since in enumerate(self._since):
            delta = self._source.delta(shard, since)
            if not delta.full and (since is None or delta.epoch != since[0]):
                raise DeltaError(f"shard {shard}: changes of epoch {delta.epoch} for a replica at {since}")
            deltas.append(delta)
        return deltas

    def _follow(self, deltas: Sequence[Delta], now: int) -> None:
        """Take note of what `deltas`, applied at `now`, have brought."""
        for delta in deltas:
            since = self._since[delta.shard]
            if since is not None and since[0] != delta.epoch:
                _log.warning("shard %d has a new epoch: its snapshot is served now", delta.shard)
                # versions may have gone back with it, so any is welcome, and soon
                self._dense_version = 0
                if self._retrieval is not None:
                    self._retrieval.forget()
                self.schedule.retry(self._monotonic(), sparse=False, dense=True)
            self._since[delta.shard] = (delta.epoch, delta.to_clock)
            _CLOCK.labels(str(delta.shard)).set(delta.to_clock)
            _ROWS.inc(delta.rows)
        learned = unpack(self._traces.learned(deltas))
        if not self._ready:
            # what had been learned before there was a replica was not kept waiting by it
            self._ready = True
            _log.info("a first snapshot of %d shards is served", len(deltas))
            return
        if self.schedule.settings.paused:
            return  # a round that somebody asked for: how late it is says nothing of the replica
        self._freshness.observe(learned[:, 1], now)
        self._stages.applied(learned, now)

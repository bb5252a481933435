"""One serving replica: its parts put together, started, stopped and reported on.

Knows no HTTP. The parts that hold a socket are handed in, so that tests can hand in others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final, Protocol

from models.mmoe import MMoE
from parameter_server.replica import ReplicaTables
from schema.config import Config, RetrievalConfig
from schema.features import FeatureBuilder, Moment
from serving.audit import Audit
from serving.candidates import Candidates, Places
from serving.feed import FeedMaker
from serving.freshness import Freshness
from serving.intake import Intake
from serving.parameters import Parameters
from serving.ranker import Ranker
from serving.retrieval import Retriever
from serving.senders import Outboxes
from serving.stages import Stages
from serving.structure import Updates
from serving.sync import Source, Synchroniser

_DELIVER_SECONDS: Final = 8.0
_LEAVE_SECONDS: Final = 1.0


def now_ms() -> int:
    """The wall clock, in Unix ms."""
    return time.time_ns() // 1_000_000


class Followed(Protocol):
    """What fills the intake. `serving.stream.Follower` is one."""

    @property
    def caught_up(self) -> bool:
        """Whether the catalogue has been read to the end that it had at the start."""

    @property
    def saved_at(self) -> int:
        """When what a restart needs was saved last, in Unix ms; 0 for never."""

    def start(self) -> None:
        """Begin to follow."""

    def stop(self, timeout: float) -> None:
        """End, within `timeout` seconds."""


class Replica:
    """The parts of a replica, and what they say of themselves.

    Args:
        config: the deployment.
        index: which of serving.replicas this is.
        source: where rounds come from.
        outboxes: where feature logs, actions and profiles go.
        follow: makes, of an intake, what fills it.
        clock: Unix ms.
    """

    def __init__(
        self,
        config: Config,
        index: int,
        *,
        source: Source,
        outboxes: Outboxes,
        follow: Callable[[Intake], Followed],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        server = config.parameter_server
        builder = FeatureBuilder(config.features)
        self.config = config
        self.index = index
        self.clock = clock
        self.outboxes = outboxes
        self.freshness = Freshness()
        self.stages = Stages()
        self.intake = Intake(config, builder)
        updates = None if config.retrieval is None else self._updates(config, config.retrieval)
        self.parameters = Parameters(
            ReplicaTables(server), len(server.shards), [table.name for table in server.tables], updates
        )
        self.retriever = (
            None if config.retrieval is None else Retriever(config, config.retrieval, self.parameters)
        )
        self.follower = follow(self.intake)
        self.sync = Synchroniser(
            source,
            self.parameters,
            shards=len(server.shards),
            new_model=lambda: new_model(config),
            retrieval=updates,
            config=config.sync,
            guarded=config.trainer.guard is not None,
            freeze_after=config.serving.replicas[index].freeze_after_seconds,
            freshness=self.freshness,
            stages=self.stages,
            clock=clock,
            monotonic=time.monotonic,
        )
        self.audit = Audit(config)
        ranker = Ranker(config, self.parameters)
        self.feeds = FeedMaker(
            builder,
            self.intake,
            ranker,
            retrieve=self._candidates,
            explore_share=config.serving.explore_share,
            logs=outboxes.feature_logs,
            served=self.stages.served,
            audit=self.audit,
            clock=clock,
        )

    def _updates(self, config: Config, retrieval: RetrievalConfig) -> Updates:
        catalogue = self.intake.catalogue
        updates = Updates(config, retrieval, catalogue.item)
        catalogue.on_item = updates.note
        return updates

    def start(self) -> None:
        """Begin to follow shards and topics."""
        self.outboxes.start()
        self.audit.start()
        self.follower.start()
        self.sync.start()

    def stop(self) -> None:
        """Deliver what waits and stop following."""
        self.outboxes.stop(_DELIVER_SECONDS)
        # nothing is lost by leaving these two in the middle of a call that takes its time
        self.sync.stop(_LEAVE_SECONDS)
        self.follower.stop(_LEAVE_SECONDS)
        self.audit.stop(_LEAVE_SECONDS)

    def _candidates(self, user_id: int, moment: Moment) -> Candidates:
        """The first stage; what is popular and recent where nothing can be retrieved."""
        serving = self.config.serving
        wanted = Places.of(serving).retrieved
        retriever = self.retriever if wanted else None
        found = retriever.find(user_id, moment.histories, wanted) if retriever else []
        return self.intake.candidates.led_by(found, serving) if found else self.intake.candidates

    def unready(self) -> str | None:
        """Why feeds should go elsewhere, or None."""
        if not self.sync.ready:
            return f"no snapshot of the shards is served yet ({self.sync.state.error or 'it is on its way'})"
        if not self.follower.caught_up:
            return "the catalogue is not yet read to the end that it had at the start"
        return None

    def report(self) -> dict[str, Any]:
        """The replica in numbers."""
        dense, state = self.parameters.dense, self.sync.state
        age = None if state.applied_at is None else time.monotonic() - state.applied_at
        return {
            "replica": self.index,
            "ready": self.unready() is None,
            "unready_because": self.unready(),
            "clocks": self.parameters.version.shards,
            "dense_version": dense.version if dense else 0,
            "dense_step": dense.step if dense else 0,
            "rounds": state.rounds,
            "failed_rounds": state.failed,
            "seconds_since_sync": age,
            **asdict(self.sync.schedule.settings),
            "paused_at": state.paused_at,
            "held": state.held,
            "rows": self.parameters.row_counts(),
            "feeds": self.feeds.made,
            "feature_logs": self.outboxes.feature_logs.offered,
            "freshness": asdict(self.freshness.summary()),
            "freshness_stages": self.stages.summary(),
            "traces": self.stages.traces(),
            "items": self.intake.catalogue.items,
            "users": self.intake.catalogue.users,
            "candidates": len(self.intake.candidates.items),
            "shown": self.feeds.shown,
            "retrieval": None if self.retriever is None else self.retriever.report(),
            "audit": {"matched": self.audit.matched, "mismatched": self.audit.mismatched},
            "saved_at": self.follower.saved_at,
            "outboxes": {
                name: {"waiting": box.waiting, "spooled_bytes": box.spooled_bytes}
                for name, box in self.outboxes.by_name().items()
            },
        }


def new_model(config: Config) -> MMoE:
    """The ranker of `config`, untrained."""
    return MMoE.of(config)

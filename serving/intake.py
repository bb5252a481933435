"""What the replica learns from the topics: profiles, popularity and histories, and so its candidates.

Takes messages and the time; knows no consumer. One thread takes, any may read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from msgspec.structs import replace
from prometheus_client import Counter

from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.config import Config
from schema.errors import InvalidMessage
from schema.features import FeatureBuilder
from schema.records import ActionBatch, FeatureLog
from serving.candidates import Candidates
from serving.catalogue import Catalogue
from serving.history import EXPOSED, Histories
from serving.popularity import Popularity

_log = logging.getLogger(__name__)

_MESSAGES: Final = Counter("headwater_intake_messages", "Messages taken from the topics.", ["topic"])
_SKIPPED: Final = Counter("headwater_intake_skipped", "Messages or records of no use.", ["topic"])
_REFRESH_MS: Final = 1000


class Stream(StrEnum):
    """The topics that a replica follows."""

    CATALOGUE = "catalogue"
    ACTIONS = "user_actions"
    LOGS = "feature_logs"


@dataclass(frozen=True, slots=True)
class _Counted:
    """The actions of some messages that count for popularity."""

    items: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)


class Intake:
    """The state that the topics give.

    An action counts for popularity by the weight of the tasks that it makes positive, so one of no task, or
    of a task with a weight of 0 or less, does not count. An event from the future counts as of now:
    otherwise one wrong clock would keep an item on top, the newest, or at the end of a history, for good.
    """

    def __init__(self, config: Config, builder: FeatureBuilder) -> None:
        self._config = config.serving
        self.catalogue = Catalogue(builder)
        self.histories = Histories(config.features.histories)
        self.popularity = Popularity(config.serving.popularity_half_life_seconds)
        self.candidates = Candidates()
        self._weights = _action_weights(config)
        self._refreshed_at = self._turn = 0
        # a memory may have given back what was popular
        self._changed = True

    def take(self, messages: Iterable[tuple[Stream, bytes | None]], now: int) -> None:
        """Learn from `messages`, in order; what cannot be read is counted and skipped.

        The candidates follow at most a second behind, if this is called that often; `now` in Unix ms.
        """
        counted = _Counted()
        takers: dict[Stream, Callable[[bytes | None], None]] = {
            Stream.CATALOGUE: lambda value: self._take_profiles(value, now),
            Stream.ACTIONS: lambda value: self._take_actions(value, counted, now),
            Stream.LOGS: lambda value: self._take_logs(value, now),
        }
        for stream, value in messages:
            self._changed = True
            _MESSAGES.labels(stream).inc()
            try:
                takers[stream](value)
            except InvalidMessage as error:
                _skip(stream, error)
        if counted.items:
            self.popularity.add(counted.items, counted.weights, counted.times)
        if self._changed and abs(now - self._refreshed_at) >= _REFRESH_MS:
            self._refresh(now)

    def _refresh(self, now: int) -> None:
        count, share = self._config.candidates, self._config.recent_share
        popular, recent = self.popularity.top(count), self.catalogue.newest(count, self._turn)
        self.candidates = Candidates.mixed(popular, recent, count, share)
        self._turn += round(count * share)
        self._refreshed_at = now
        self._changed = False

    def _take_profiles(self, value: bytes | None, now: int) -> None:
        for profile in CATALOGUE.decode(value):
            known = replace(profile, event_time=now) if profile.event_time > now else profile
            try:
                self.catalogue.apply(known)
            except ValueError as error:
                _skip(Stream.CATALOGUE, error)

    def _take_actions(self, value: bytes | None, counted: _Counted, now: int) -> None:
        for batch in USER_ACTIONS.decode(value):
            if isinstance(batch, ActionBatch):
                self._take_batch(batch, counted, now)

    def _take_batch(self, batch: ActionBatch, counted: _Counted, now: int) -> None:
        for action in batch.actions:
            time = min(action.event_time, now)
            # of impressions the feature logs tell; counting an echo of them would count them twice
            if action.kind != EXPOSED:
                self.histories.add(batch.user_id, action.kind, (action.item_id,), time)
            weight = self._weights.get(action.kind, 0.0)
            if weight:
                counted.items.append(action.item_id)
                counted.weights.append(weight)
                counted.times.append(time)

    def _take_logs(self, value: bytes | None, now: int) -> None:
        for log in FEATURE_LOGS.decode(value):
            if not isinstance(log, FeatureLog):
                continue
            if len(log.items) % 8:
                _skip(Stream.LOGS, log.problem())
                continue
            shown: Sequence[int] = log.item_ids().tolist()
            self.histories.add(log.user_id, EXPOSED, shown, min(log.event_time, now))


def _action_weights(config: Config) -> dict[str, float]:
    weights: dict[str, float] = {}
    for task in config.tasks:
        for action in task.actions:
            weights[action] = weights.get(action, 0.0) + max(task.weight, 0.0)
    return weights


def _skip(stream: Stream, why: object) -> None:
    _SKIPPED.labels(stream).inc()
    _log.debug("%s: skipped: %s", stream, why)

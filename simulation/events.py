"""A recorded log as the records of the two topics, in event-time order. Pure: no clock, no broker.

Time is walked once over requests, exposures and actions together. A request is built from the histories
as they stand: only outcomes whose times lie strictly before its own have been added by then, so nothing that
it led to, and none of its own exposures, is among its features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from schema.config import Config
from schema.features import Encoded, FeatureBuilder, Moment
from schema.records import (
    I64,
    POSITION_MISSING,
    Action,
    ActionBatch,
    FeatureLog,
    ModelVersion,
    Profile,
    column,
)
from simulation.actions import KINDS, outcomes
from simulation.histories import Histories
from simulation.log import EXPOSED, Log
from simulation.requests import group

_REQUEST: Final = 0
_EXPOSURE: Final = 1
_ACTIONS: Final = 2
_NO_MODEL: Final = ModelVersion()


class Event(NamedTuple):
    """One record to send, and its event time in Unix milliseconds."""

    time: int
    record: FeatureLog | ActionBatch


def profiles(log: Log) -> Iterator[Profile]:
    """The items, then the users of `log`: what the catalogue has to hold before its first request."""
    for known in (log.item_profiles, log.user_profiles):
        for own_id in sorted(known):
            yield known[own_id]


def events(log: Log, config: Config) -> Iterator[Event]:
    """The feature logs and action batches of `log`, in event-time order.

    Every exposure is an impression of exactly one feature log; one action batch holds what one user did in
    one millisecond. The same log and configuration give the same records.

    Raises:
        ConfigError: `streaming.window_seconds` is too short for a request and its actions.
    """
    plan = _plan(log, config)
    builder = _RequestBuilder(log, config, plan)
    batches = _Batches(log, plan)
    users, items = log.users.tolist(), log.items.tolist()
    for time, what, index in zip(*plan.timeline, strict=True):
        if what == _REQUEST:
            yield Event(time, builder.build(index))
        elif what == _EXPOSURE:
            builder.histories.add(users[index], EXPOSED, items[index])
        else:
            batch = batches.build(index, time)
            for action in batch.actions:
                builder.histories.add(batch.user_id, action.kind, action.item_id)
            yield Event(time, batch)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Rows of requests, rows and kinds of batches, and the (times, whats, indices) of the walk."""

    request_ids: list[str]
    request_rows: list[int]
    request_starts: list[int]
    request_of_row: list[int]
    action_rows: list[int]
    action_kinds: list[int]
    action_values: list[float]
    batch_starts: list[int]
    timeline: tuple[list[int], list[int], list[int]]


def _plan(log: Log, config: Config) -> _Plan:
    requests = group(log)
    acts = outcomes(log, requests, int(config.streaming.window_seconds * 1000))
    batch_starts = _batch_starts(acts.times, log.users[acts.rows])
    firsts = requests.firsts
    return _Plan(
        request_ids=[f"{log.name}-{row}" for row in firsts.tolist()],
        request_rows=requests.rows.tolist(),
        request_starts=requests.starts.tolist(),
        request_of_row=requests.of_row.tolist(),
        action_rows=acts.rows.tolist(),
        action_kinds=acts.kinds.tolist(),
        action_values=acts.values.tolist(),
        batch_starts=batch_starts.tolist(),
        timeline=_timeline(log.times[firsts], log.times, acts.times[batch_starts[:-1]]),
    )


def _batch_starts(times: I64, users: I64) -> I64:
    """Where a new (time, user) begins among the actions, and their count at the end."""
    differs = (np.diff(times) != 0) | (np.diff(users) != 0)
    begins = np.flatnonzero(np.concatenate([np.ones(min(len(times), 1), np.bool_), differs]))
    return np.append(begins, len(times))


def _timeline(*times: I64) -> tuple[list[int], list[int], list[int]]:
    """Merges the times of requests, exposures and batches; at one time in this order, then by index."""
    time = np.concatenate(times)
    what = np.repeat(np.arange(len(times)), [len(t) for t in times])
    index = np.concatenate([np.arange(len(t)) for t in times])
    order = np.lexsort((index, what, time))
    return time[order].tolist(), what[order].tolist(), index[order].tolist()


class _RequestBuilder:
    """Builds the feature log of each request; users and items are encoded once."""

    def __init__(self, log: Log, config: Config, plan: _Plan) -> None:
        self.histories = Histories(config.features.histories, log.seeds)
        self._features = FeatureBuilder(config.features)
        self._log = log
        self._plan = plan
        self._times, self._surfaces = log.times.tolist(), log.surfaces.tolist()
        self._user_ids, self._item_ids = log.users.tolist(), log.items.tolist()
        self._users: dict[int, Encoded] = {}
        self._items: dict[int, Encoded] = {}

    def build(self, request: int) -> FeatureLog:
        plan = self._plan
        rows = plan.request_rows[plan.request_starts[request] : plan.request_starts[request + 1]]
        first = rows[0]
        user, time, surface = self._user_ids[first], self._times[first], self._surfaces[first]
        shown = [self._item_ids[row] for row in rows]
        features = self._features.build(
            self._user(user), Moment(time, surface, self.histories.of(user)), [self._item(i) for i in shown]
        )
        return FeatureLog(
            request_id=plan.request_ids[request],
            user_id=user,
            event_time=time,
            surface=surface,
            model=_NO_MODEL,
            items=column(shown, "<i8"),
            positions=column([POSITION_MISSING] * len(rows), "<u2"),
            features=features,
        )

    def _user(self, user: int) -> Encoded:
        found = self._users.get(user)
        if found is None:
            found = self._users[user] = self._features.user(user, self._log.user_profiles.get(user))
        return found

    def _item(self, item: int) -> Encoded:
        found = self._items.get(item)
        if found is None:
            found = self._items[item] = self._features.item(item, self._log.item_profiles.get(item))
        return found


class _Batches:
    """Builds the action batches."""

    def __init__(self, log: Log, plan: _Plan) -> None:
        self._plan = plan
        self._users, self._items = log.users.tolist(), log.items.tolist()

    def build(self, batch: int, time: int) -> ActionBatch:
        plan = self._plan
        places = range(plan.batch_starts[batch], plan.batch_starts[batch + 1])
        return ActionBatch(
            self._users[plan.action_rows[places[0]]],
            tuple(self._action(place, time) for place in places),
        )

    def _action(self, place: int, time: int) -> Action:
        plan = self._plan
        row = plan.action_rows[place]
        return Action(
            request_id=plan.request_ids[plan.request_of_row[row]],
            item_id=self._items[row],
            kind=KINDS[plan.action_kinds[place]],
            event_time=time,
            value=plan.action_values[place],
        )

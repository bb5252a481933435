"""A recorded feed log with, for every exposure, what a server could have known when it was asked for.

Knows no model: both sides of the comparison take these rows.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import F64
from schema.config import Config
from schema.records import F32, I64, FeatureLog
from simulation.events import events
from simulation.log import Log
from simulation.requests import group

TASKS: Final = ("click", "long_view", "like")
ENTITIES: Final = ("user", "item", "author", "tag")
GROUPS: Final = {
    "counters": tuple(f"{entity}_" for entity in ENTITIES),
    "history sizes": ("before_",),
    "last outcomes": ("last_", "since_"),
    "attention": ("no counter",),
}
"""Groups of features, by what the names of their counters begin with."""
LABEL_DELAY_MS: Final = 60_000
_PRIOR: Final = 20.0
_BEFORE_PRIOR: Final = 10.0
_LAST: Final = 5
_SEEDS: Final = ("exposed", "long_view", "like")
_NEVER_MS: Final = 30 * 86_400_000

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Request:
    """One feature log, and the exposures (rows of the log) that it shows."""

    log: FeatureLog
    rows: I64


@dataclass(frozen=True, slots=True)
class FeedLog:
    """n exposures: labels (n, T), `known` (n, k) with `names` (k,), and the requests in time order."""

    log: Log
    labels: F32
    known: F32
    names: tuple[str, ...]
    requests: list[Request]


def read(log: Log, config: Config) -> FeedLog:
    """`log` with the features that `config` names and the causal counters beside them."""
    labels = np.stack([log.outcomes[task] for task in TASKS], axis=1).astype(np.float32)
    requests = list(_requests(log, config))
    walk = _Walk(log, labels)
    known = np.zeros((len(log), len(walk.names)), np.float32)
    for request in requests:
        walk.advance(request.log.event_time)
        for row in request.rows.tolist():
            known[row] = walk.known(row, request.log.event_time)
        walk.asked[request.log.user_id] = request.log.event_time
    return FeedLog(log, labels, known, walk.names, requests)


def without(feed: FeedLog, group: str) -> FeedLog:
    """`feed` without the counters of `group`."""
    kept = [i for i, name in enumerate(feed.names) if not name.startswith(GROUPS[group])]
    names = tuple(feed.names[i] for i in kept)
    return replace(feed, known=np.ascontiguousarray(feed.known[:, kept]), names=names)


def _requests(log: Log, config: Config) -> Iterator[Request]:
    groups = group(log)
    number = 0
    for event in events(log, config):
        if isinstance(event.record, FeatureLog):
            yield Request(event.record, groups.rows[groups.starts[number] : groups.starts[number + 1]])
            number += 1


@dataclass
class _Walk:
    """Counters as of a moment: an exposure counts LABEL_DELAY_MS after it happened."""

    log: Log
    labels: F32
    asked: dict[int, int] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        tasks = len(TASKS)
        self._all: Counts = np.zeros(1 + tasks)
        self._counts = [defaultdict[Hashable, Counts](lambda: np.zeros(1 + tasks)) for _ in ENTITIES]
        self._last = defaultdict[int, deque[F32]](lambda: deque(maxlen=_LAST))
        self._users, self._items = self.log.users.tolist(), self.log.items.tolist()
        profiles = self.log.item_profiles
        self._authors = {i: p.fields.get("author", (0,))[0] for i, p in profiles.items()}
        self._tags = {i: p.fields.get("tag", ("unknown",))[0] for i, p in profiles.items()}
        self.names = (
            *(f"{e}_{what}" for e in ENTITIES for what in ("count", *TASKS)),
            *(f"before_{action}" for action in _SEEDS),
            *(f"before_{action}_rate" for action in _SEEDS[1:]),
            *(f"last_{i}_{task}" for i in range(_LAST) for task in TASKS),
            "last_count",
            "since_asked",
        )

    def advance(self, now: int) -> None:
        """Count what is known before `now`."""
        times = self.log.times
        while self._next < len(times) and times[self._next] + LABEL_DELAY_MS < now:
            row = self._next
            counted = np.concatenate([[1.0], self.labels[row]])
            for counts, key in zip(self._counts, self._keys(row), strict=True):
                counts[key] += counted
            self._all += counted
            self._last[self._users[row]].append(self.labels[row])
            self._next += 1

    def _keys(self, row: int) -> tuple[Hashable, ...]:
        item = self._items[row]
        return self._users[row], item, self._authors.get(item, 0), self._tags.get(item, "unknown")

    def known(self, row: int, now: int) -> F64:
        """The values of `names`, each about 0 where nothing is known, and of the order of 1."""
        rate = (self._all[1:] + 1) / (self._all[0] + 2)
        values: list[float] = []
        for counts, key in zip(self._counts, self._keys(row), strict=True):
            had = counts.get(key)
            had = np.zeros(1 + len(TASKS)) if had is None else had
            smoothed = (had[1:] + _PRIOR * rate) / (had[0] + _PRIOR)
            values += [np.log1p(had[0]) / 5, *(_logit(smoothed) - _logit(rate))]
        user = self._users[row]
        values += self._before(user, rate)
        last = self._last.get(user, ())
        outcomes = np.zeros((_LAST, len(TASKS)))
        for place, outcome in enumerate(reversed(last)):
            outcomes[place] = outcome
        since = now - self.asked.get(user, now - _NEVER_MS)
        return np.array([*values, *outcomes.ravel(), len(last) / _LAST, np.log1p(since / 1000) / 10])

    def _before(self, user: int, rate: F64) -> list[float]:
        """The sizes of the user's histories from before the log, and the shares viewed long and liked."""
        had = [len(self.log.seeds[action].get(user, ())) for action in _SEEDS]
        counts = [float(np.log1p(count)) / 4 for count in had]
        rates = []
        for action, count in zip(_SEEDS[1:], had[1:], strict=True):
            prior = rate[TASKS.index(action)]
            share = (count + _BEFORE_PRIOR * prior) / (max(had[0], count + 1) + _BEFORE_PRIOR)
            rates.append(float(_logit(share) - _logit(prior)))
        return [*counts, *rates]


def _logit(p: F64) -> F64:
    return np.log(p) - np.log1p(-p)

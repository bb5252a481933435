"""Answers one feed request: candidates, features, ranking, and the log of what was served.

Knows no HTTP: takes values and returns values.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

from runtime.logs import about
from schema.errors import HeadwaterError
from schema.features import FeatureBuilder, Moment
from schema.records import F32, I64, FeatureLog, Features, ModelVersion, column
from serving.audit import Audit
from serving.candidates import Candidates, Origin
from serving.exploration import slate
from serving.intake import Intake
from serving.outbox import Outbox
from serving.ranker import Ranker, Ranking

_FEEDS: Final = Counter("headwater_feeds", "Feeds answered, by how they were ordered.", ["order"])
_SHOWN: Final = Counter("headwater_shown_items", "Items shown, by where they came from.", ["origin"])
_SECONDS: Final = Histogram(
    "headwater_feed_seconds",
    "Time to choose and rank a feed.",
    buckets=(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 5),
)


class NoCandidates(HeadwaterError):  # noqa: N818 - named for the state
    """There is nothing to recommend: neither a profile nor an action of any item has come yet."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A served feed. `scores` f32 (k, tasks) and `final` f32 (k,) are None where it is by popularity.

    They are those that ranked it among all candidates. Its log has scores of what was shown alone, which
    differ in the last bits.

    `propensities` f32 (k,) and `explored` bool (k,) are those of `exploration.Slate`; `origins` (k,) is where
    each item comes from.
    """

    request_id: str
    event_time: int
    items: tuple[int, ...]
    version: ModelVersion
    scores: F32 | None
    final: F32 | None
    propensities: F32
    explored: NDArray[np.bool_]
    origins: tuple[Origin, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """A feed and what its log is made of: the `features` of all `candidates`, of which it shows `rows`.

    `seconds` is how long it took to make.
    """

    feed: Feed
    user_id: int
    surface: int
    features: Features
    candidates: int
    rows: list[int]
    ranking: Ranking
    seconds: float


Retrieve = Callable[[int, Moment], Candidates]
"""The first stage: the candidates for a user at a moment, the best first."""


class FeedMaker:
    """Makes feeds and logs them.

    Args:
        builder: turns what is known into features.
        intake: profiles and histories.
        ranker: the scores.
        retrieve: the candidates.
        explore_share: how many positions show an item at random.
        logs: where the feature logs go.
        served: told of the time of every feed that a model has ranked.
        audit: told of every request and how it was ranked.
        clock: Unix ms.
    """

    def __init__(
        self,
        builder: FeatureBuilder,
        intake: Intake,
        ranker: Ranker,
        *,
        retrieve: Retrieve,
        explore_share: float,
        logs: Outbox[FeatureLog],
        served: Callable[[int], None],
        audit: Audit,
        clock: Callable[[], int],
    ) -> None:
        self._builder = builder
        self._intake = intake
        self._ranker = ranker
        self._retrieve = retrieve
        self._explore_share = explore_share
        self._logs = logs
        self._served = served
        self._audit = audit
        self._clock = clock
        self._rng = np.random.default_rng()
        self._made = 0
        self._shown = [0] * len(Origin)

    @property
    def made(self) -> int:
        """How many feeds have been made."""
        return self._made

    @property
    def shown(self) -> dict[str, int]:
        """How many items have been shown, by where they came from."""
        return {origin.name.lower(): self._shown[origin] for origin in Origin}

    def _count(self, origins: Sequence[Origin]) -> None:
        for origin, count in Counts(origins).items():
            self._shown[origin] += count
            _SHOWN.labels(origin.name.lower()).inc(count)

    def feed(self, user_id: int, surface: int, size: int) -> Feed:
        """As `make`, and noted at once."""
        made = self.make(user_id, surface, size)
        self.note(made)
        return made.feed

    def make(self, user_id: int, surface: int, size: int) -> Made:
        """The best `size` candidates for `user_id` now, or all where there are fewer; to be noted when shown.

        Without a model they come in the order of the candidates, the most popular first.

        Raises:
            NoCandidates: no item is known.
        """
        began, request = time.perf_counter(), secrets.token_hex(16)
        with about(request_id=request):
            moment = Moment(self._clock(), surface, self._intake.histories.of(user_id))
            candidates = self._retrieve(user_id, moment)
            if not candidates.items:
                raise NoCandidates(
                    "no item is known yet: POST some to /v1/items, or send actions, and ask again in a second"
                )
            feed, features, rows, ranking = self._ranked(request, candidates, user_id, moment, size)
        took = time.perf_counter() - began
        return Made(feed, user_id, surface, features, len(candidates.items), rows, ranking, took)

    def note(self, made: Made) -> None:
        """Log a feed and count it. A full outbox loses the log, which is counted."""
        log = _log_of(made, self._ranker.rescored(made.ranking, np.array(made.rows)))
        self._audit.note(log, made.ranking)
        self._logs.offer(log)
        _SECONDS.observe(made.seconds)
        self._made += 1
        self._count(made.feed.origins)
        if made.feed.final is not None:
            self._served(self._clock())
        _FEEDS.labels("popularity" if made.feed.final is None else "ranked").inc()

    def _ranked(
        self, request: str, candidates: Candidates, user_id: int, moment: Moment, size: int
    ) -> tuple[Feed, Features, list[int], Ranking]:
        """The feed, all candidates' features, which of them are shown, and how they were ranked."""
        catalogue = self._intake.catalogue
        user, items = catalogue.user(user_id), [catalogue.item(item) for item in candidates.items]
        features = self._builder.build(user, moment, items)
        ranking = self._ranker.rank(features, len(items))
        chosen = slate(_best(ranking, len(items)), size, self._explore_share, self._rng)
        rows = chosen.chosen.tolist()
        feed = Feed(
            request,
            moment.event_time,
            tuple([candidates.items[row] for row in rows]),
            ranking.version,
            ranking.tasks[chosen.chosen] if ranking.tasks is not None else None,
            ranking.final[chosen.chosen] if ranking.final is not None else None,
            chosen.propensities,
            chosen.explored,
            tuple([candidates.origins[row] for row in rows]),
        )
        return feed, features, rows, ranking


def _best(ranking: Ranking, count: int) -> I64:
    """Candidate indices, the best first; equal scores stay in the order of the candidates."""
    if ranking.final is None:
        return np.arange(count)
    return np.argsort(-ranking.final, kind="stable")


def _log_of(made: Made, scores: F32 | None) -> FeatureLog:
    feed = made.feed
    return FeatureLog(
        request_id=feed.request_id,
        user_id=made.user_id,
        event_time=feed.event_time,
        surface=made.surface,
        model=feed.version,
        items=column(feed.items, "<i8"),
        positions=column(range(len(feed.items)), "<u2"),
        features=made.features.narrowed(made.rows, made.candidates),
        scores=b"" if scores is None else column(scores, "<f4"),
        propensities=column(feed.propensities, "<f4"),
        origins=bytes(feed.origins),
    )

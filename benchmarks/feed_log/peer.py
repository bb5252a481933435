"""What a team would otherwise run nightly: LightGBM, retrained each day on all days before it.

It has the counters, history lengths and last outcomes of the online ranker, and all static features.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Final

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feed_log.rows import TASKS, FeedLog
from models.metrics import F64
from schema.records import I64, Profile

_PARAMETERS: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 50,
    "verbose": -1,
    # more spin, where other processes want the machine too
    "num_threads": 1,
    "seed": 1,
    "deterministic": True,
}
_TREES: Final = 120


def predictions(feed: FeedLog, day: I64, test_days: Iterable[int]) -> F64:
    """Probabilities (n, T) for the rows of `test_days`, each day by trees of the days before; else NaN."""
    features, categories = _features(feed)
    out: F64 = np.full(feed.labels.shape, np.nan)
    for today in test_days:
        before, now = day < today, day == today
        for task in range(len(TASKS)):
            rows = lightgbm.Dataset(
                features[before], feed.labels[before, task], categorical_feature=categories
            )
            out[now, task] = lightgbm.train(_PARAMETERS, rows, _TREES).predict(features[now])
    return out


def _features(feed: FeedLog) -> tuple[F64, list[int]]:
    """A matrix (n, f), and which of its columns are categories without an order."""
    log = feed.log
    profiles = [log.item_profiles.get(item) for item in log.items.tolist()]
    hours = (log.times + 8 * 3_600_000) // 3_600_000 % 24
    columns: list[NDArray[Any]] = [
        _codes(_first(p, "author") for p in profiles),
        _codes(_first(p, "tag") for p in profiles),
        _codes(_first(p, "type") for p in profiles),
        log.surfaces,
    ]
    categories = list(range(1, len(columns)))
    columns += [hours, np.array([p.numbers.get("duration_seconds", 0.0) if p else 0.0 for p in profiles])]
    columns += _user_columns(feed)
    return np.column_stack([*columns, feed.known]).astype(np.float64), categories


def _user_columns(feed: FeedLog) -> list[NDArray[Any]]:
    """Each "name=value" of the users' profiles as the code of its value, -1 where it is missing."""
    profiles = feed.log.user_profiles
    values = {user: dict(_split(v) for v in p.fields.get("profile", ())) for user, p in profiles.items()}
    names = sorted({name for has in values.values() for name in has})
    users = feed.log.users.tolist()
    return [_codes(values.get(user, {}).get(name) for user in users) for name in names]


def _split(value: Hashable) -> tuple[str, str]:
    name, _, text = str(value).partition("=")
    return name, text


def _first(profile: Profile | None, field: str) -> Hashable:
    return next(iter(profile.fields.get(field, ())), None) if profile else None


def _codes(values: Iterable[Hashable]) -> NDArray[Any]:
    """Numbers in the order of the values as text, -1 for None."""
    listed = list(values)
    order = {v: i for i, v in enumerate(sorted({v for v in listed if v is not None}, key=str))}
    return np.array([-1 if v is None else order[v] for v in listed])

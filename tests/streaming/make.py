"""Small records for the tests of the join."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schema.config import SamplingConfig, TaskConfig
from schema.records import Action, FeatureLog, Features, IdColumn, ModelVersion, column
from streaming.heads import Head, pack, unpack
from streaming.request import State
from streaming.rules import Rules
from streaming.sampling import Sampler

WINDOW = 1000
TASKS = (TaskConfig(name="click", actions=("click",)), TaskConfig(name="like", actions=("like", "share")))
HORIZON = 100_000
RULES = Rules(WINDOW, HORIZON, ("click", "like"), {"click": 0b01, "like": 0b10, "share": 0b10})
EARLY = msgspec.structs.replace(RULES, early=True)
ON_TIME_ONLY = msgspec.structs.replace(RULES, reach=WINDOW)


def sampler(**config: object) -> Sampler:
    return Sampler(SamplingConfig(**config), RULES.tasks)


def feature_log(
    request_id: str,
    event_time: int,
    items: Sequence[int] = (10, 20, 30),
    *,
    user_id: int = 7,
    scores: Sequence[float] = (),
    odds: Sequence[float] = (),
) -> FeatureLog:
    n = len(items)
    features = Features(
        context=(IdColumn(1, column([user_id], "<u8")),),
        items=(IdColumn(5, column(items, "<u8")),),
        item_dense=column([0.5] * n, "<f4"),
    )
    return FeatureLog(
        request_id,
        user_id,
        event_time,
        0,
        ModelVersion(),
        column(items, "<i8"),
        column(range(n), "<u2"),
        features,
        column(scores, "<f4"),
        column(odds, "<f4"),
    )


def head(*args: object, **kwargs: object) -> Head:
    return unpack(pack(feature_log(*args, **kwargs)))


def state(offset: int, spoken: int) -> State:
    """Of a closed request, with these pairs emitted as negatives."""
    made = State(offset, 0, 5000)
    made.add(0, spoken)
    return made


def action(request_id: str, event_time: int, item: int = 10, kind: str = "click") -> Action:
    return Action(request_id, item, kind, event_time)

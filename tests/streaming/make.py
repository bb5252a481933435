"""Small records for the tests of the join."""

from __future__ import annotations

from collections.abc import Sequence

from schema.config import TaskConfig
from schema.records import Action, FeatureLog, Features, IdColumn, ModelVersion, column
from streaming.join import Rules

WINDOW = 1000
TASKS = (TaskConfig(name="click", actions=("click",)), TaskConfig(name="like", actions=("like", "share")))
RULES = Rules.of(WINDOW / 1000, TASKS)


def feature_log(
    request_id: str, event_time: int, items: Sequence[int] = (10, 20, 30), *, user_id: int = 7
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
    )


def action(request_id: str, event_time: int, item: int = 10, kind: str = "click") -> Action:
    return Action(request_id, item, kind, event_time)

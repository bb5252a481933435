"""What a feature log says, in the words of the configuration: slots by name, scores by task. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from schema.config import Config
from schema.ids import VALUE_LIMIT
from schema.records import F32, U64, FeatureLog


class Teller:
    """Tells of requests.

    Args:
        config: the slots and the tasks.
    """

    def __init__(self, config: Config) -> None:
        self._names = {slot.slot: slot.name for slot in config.features.slots}
        self._tasks = [task.name for task in config.tasks]

    def tell(self, log: FeatureLog, again: F32 | None) -> dict[str, Any]:
        """What each slot held, what scored it, and its scores; `again` f32 (n, tasks): computed once more.

        `same_bits` is None where they could not be, since the parameters are gone or nothing scored it.

        Raises:
            ValueError: its scores are not those of the configured tasks.
        """
        if len(log.scores) not in (0, 4 * len(log) * len(self._tasks)):
            raise ValueError(
                f"scores: {len(log.scores)} bytes for {len(log)} items; legal are {len(self._tasks)} tasks'"
            )
        return {
            "request_id": log.request_id,
            "user_id": log.user_id,
            "event_time": log.event_time,
            "model": {"dense": log.model.dense, "shards": log.model.shards},
            "context": {self._name(c.slot): _values(c.values()) for c in log.features.context},
            "items": self._items(log, again),
            "same_bits": None if again is None else again.tobytes() == log.scores,
        }

    def _items(self, log: FeatureLog, again: F32 | None) -> list[dict[str, Any]]:
        served = np.frombuffer(log.scores, "<f4").reshape(len(log), -1).tolist()
        propensities = np.frombuffer(log.propensities, "<f4").tolist() or [None] * len(log)
        columns = {}
        for column in log.features.items:
            ends = np.cumsum(column.row_lengths(len(log)))[:-1]
            columns[self._name(column.slot)] = np.split(column.values(), ends)
        return [
            {
                "item_id": item,
                "propensity": propensities[row],
                "slots": {name: _values(rows[row]) for name, rows in columns.items()},
                "served": dict(zip(self._tasks, served[row], strict=False)),
                "again": {} if again is None else dict(zip(self._tasks, again[row].tolist(), strict=True)),
            }
            for row, item in enumerate(log.item_ids().tolist())
        ]

    def _name(self, slot: int) -> str:
        return self._names.get(slot, str(slot))


def _values(ids: U64) -> list[int]:
    return [int(feature) % VALUE_LIMIT for feature in ids.tolist()]

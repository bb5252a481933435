"""What follows the topics, with a consumer in memory; tests/serving/test_process.py has a real one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from schema.features import FeatureBuilder
from serving.intake import Intake
from serving.memory import Memory
from serving.stream import Follower
from tests.serving.parts import CONFIG, NOW, did, message

ACTIONS = TopicPartition(CONFIG.kafka.topics.user_actions.name, 0)


class Reader:
    """A consumer of topics with one partition each; only that of actions has messages."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self._values = list(values)

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {0}

    def end_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:  # noqa: ARG002
        return {place: len(self._values) if place == ACTIONS else 0 for place in places}

    def assign(self, places: Sequence[TopicPartition]) -> None:
        pass

    def seek_to_beginning(self, place: TopicPartition) -> None:
        pass

    def position(self, place: TopicPartition, timeout_ms: int) -> int:  # noqa: ARG002
        return 0

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Any]]:  # noqa: ARG002
        values, self._values = self._values, []
        return {ACTIONS: [SimpleNamespace(value=v, offset=at) for at, v in enumerate(values)]}

    def close(self) -> None:
        pass


def test_a_batch_that_fails_half_way_is_not_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    intake = Intake(CONFIG, FeatureBuilder(CONFIG.features))
    values = [message(did(7, "like", 1))[1], message(did(7, "like", 2))[1]]
    monkeypatch.setattr("serving.stream.consumer", lambda *_, **__: Reader(values))
    add = intake.histories.add

    def fail_at_two(user: int, kind: str, items: Sequence[int], time: int) -> None:
        if 2 in items:
            raise RuntimeError("at two")
        add(user, kind, items, time)

    monkeypatch.setattr(intake.histories, "add", fail_at_two)
    memory = Memory(tmp_path / "memory")
    with pytest.raises(RuntimeError, match="at two"):
        Follower(CONFIG.kafka, intake, lambda: NOW, memory)._run()

    memory, again = Memory(tmp_path / "memory"), Intake(CONFIG, FeatureBuilder(CONFIG.features))
    assert memory.restore(again.histories, again.popularity) == {}
    assert again.histories.of(7)["liked"] == [], "it will be read again"
    memory.close()

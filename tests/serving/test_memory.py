"""What survives a restart, and that nothing is counted twice or of other topics."""

from __future__ import annotations

from pathlib import Path

import pytest

from schema.config import HistoryConfig
from serving.history import Histories
from serving.memory import Memory, MemoryUnusable
from serving.popularity import Popularity

HISTORIES = (
    HistoryConfig(name="liked", actions=("like",), length=3),
    HistoryConfig(name="seen", actions=("x",)),
)


def fresh(config=HISTORIES, max_users: int = 100) -> tuple[Histories, Popularity]:
    return Histories(config, max_users), Popularity(60)


def saved(folder: Path) -> None:
    memory, (histories, popularity) = Memory(folder), fresh()
    assert memory.restore(histories, popularity) == {}
    histories.add(7, "like", [1, 2], 100)
    histories.add(7, "x", [9], 100)
    popularity.add([1, 2], [5.0, 1.0], [1000, 1000])
    memory.save(histories, popularity, {("a", 0): 5, ("a", 1): 7})
    histories.add(7, "like", [3, 4], 200)
    histories.add(8, "like", [5], 200)
    memory.save(histories, popularity, {("a", 0): 6, ("a", 1): 7})
    memory.close()


def test_a_restart_goes_on_where_the_last_save_was(tmp_path):
    saved(tmp_path / "memory")
    memory, (histories, popularity) = Memory(tmp_path / "memory"), fresh()
    assert memory.restore(histories, popularity) == {("a", 0): 6, ("a", 1): 7}
    assert histories.of(7) == {"liked": [2, 3, 4], "seen": [9]}
    assert histories.of(8)["liked"] == [5]
    assert histories.of(9)["liked"] == []
    assert popularity.top(5) == [1, 2]
    assert popularity.count(1, 1000) == pytest.approx(5.0)
    histories.add(8, "like", [6], 300)
    assert histories.of(8)["liked"] == [5, 6], "what is added goes on from what was saved"
    memory.close()


def test_who_is_forgotten_in_memory_is_read_from_disk(tmp_path):
    memory, (histories, popularity) = Memory(tmp_path / "memory"), fresh(max_users=2)
    memory.restore(histories, popularity)
    for user in range(5):
        histories.add(user, "like", [user * 10], 1)
        memory.save(histories, popularity, {})
    assert len(histories) == 2
    assert [histories.of(user)["liked"] for user in range(5)] == [[0], [10], [20], [30], [40]]
    memory.close()


@pytest.mark.parametrize(("action", "length"), [("like", 4), ("love", 3)])
def test_other_histories_begin_anew(tmp_path, action, length):
    saved(tmp_path / "memory")
    other = (HistoryConfig(name="liked", actions=(action,), length=length), HISTORIES[1])
    memory, (histories, popularity) = Memory(tmp_path / "memory"), fresh(other)
    assert memory.restore(histories, popularity) == {}
    assert histories.of(7) == {"liked": [], "seen": []}
    assert len(popularity) == 0
    memory.close()


def test_counts_by_another_half_life_begin_anew(tmp_path):
    saved(tmp_path / "memory")
    memory, (histories, _) = Memory(tmp_path / "memory"), fresh()
    popularity = Popularity(120)
    assert memory.restore(histories, popularity) == {}
    popularity.add([3], [1.0], [1000])
    assert popularity.top(2) == [3], "what was saved would stay on top of it for good"
    memory.close()


def test_other_topics_begin_anew(tmp_path):
    saved(tmp_path / "memory")
    memory, (histories, popularity) = Memory(tmp_path / "memory"), fresh()
    memory.restore(histories, popularity)
    memory.forget(histories, popularity)
    assert histories.of(7)["liked"] == []
    memory.close()
    memory, (histories, popularity) = Memory(tmp_path / "memory"), fresh()
    assert memory.restore(histories, popularity) == {}
    assert popularity.top(3) == []
    memory.close()


def test_a_folder_that_another_holds_is_named(tmp_path):
    memory = Memory(tmp_path / "memory")
    with pytest.raises(MemoryUnusable, match="cannot be opened"):
        Memory(tmp_path / "memory")
    memory.close()

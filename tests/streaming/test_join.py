"""The join of one partition: what becomes of each feature log and action."""

from __future__ import annotations

import pytest

from streaming import join as join_module
from streaming.blocks import block
from streaming.counts import Counts
from streaming.join import Arrival, Join
from tests.streaming.make import RULES, WINDOW, action, feature_log


class Bench:
    """A join with its results in readable form; offsets count up by themselves."""

    def __init__(self):
        self.counts = Counts()
        self.join = Join(RULES, self.counts)
        self._offset = 0

    def log(self, *args, **kwargs):
        self._offset += 1
        return self.join.open(feature_log(*args, **kwargs), self._offset, 0)

    def act(self, *args, **kwargs):
        self._offset += 1
        self.join.act(Arrival(action(*args, **kwargs), 7, self._offset, 0))

    def close(self, watermark):
        """{request: label matrix} of what closes."""
        return {
            r.log.request_id: block(r, RULES.tasks, 0, 0, 0).label_matrix().tolist()
            for r in self.join.advance(watermark)
        }

    @property
    def reasons(self):
        return [r.reason for r in self.join.rejected]


@pytest.fixture
def bench():
    return Bench()


NONE = [[0, 0], [0, 0], [0, 0]]


def test_a_request_without_actions_closes_negative(bench):
    bench.log("r", 5000)
    assert bench.close(5000 + WINDOW) == {}
    assert bench.close(5000 + WINDOW + 1) == {"r": NONE}
    assert bench.close(99_999) == {}


@pytest.mark.parametrize(
    ("item", "kind", "labels"),
    [
        (10, "click", [[1, 0], [0, 0], [0, 0]]),
        (30, "like", [[0, 0], [0, 0], [0, 1]]),
        (20, "share", [[0, 0], [0, 1], [0, 0]]),
    ],
)
def test_an_action_makes_its_task_positive(bench, item, kind, labels):
    bench.log("r", 5000)
    bench.act("r", 5100, item, kind)
    assert bench.close(9000) == {"r": labels}
    assert bench.reasons == []


def test_a_kind_may_serve_several_tasks():
    rules = join_module.Rules.of(
        1.0, [join_module.TaskConfig(name=n, actions=("click",)) for n in ("engaged", "click")]
    )
    assert rules.kinds == {"click": 0b11}


def test_an_action_may_come_before_its_log(bench):
    bench.act("r", 5100)
    assert bench.join.pending_actions == 1
    bench.log("r", 5000)
    assert bench.join.pending_actions == 0
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}


def test_the_window_is_closed_on_its_last_millisecond(bench):
    bench.log("r", 5000)
    bench.act("r", 5000 + WINDOW, 10)
    bench.act("r", 5001 + WINDOW, 20)
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}
    assert bench.reasons == ["late_action"]


def test_an_action_after_the_close_is_late(bench):
    bench.log("r", 5000)
    bench.close(9000)
    bench.act("r", 5100)
    assert bench.reasons == ["late_action"]


def test_an_action_for_an_item_not_shown(bench):
    bench.log("r", 5000)
    bench.act("r", 5100, item=99)
    assert bench.reasons == ["unknown_item"]
    assert bench.close(9000) == {"r": NONE}


def test_an_action_that_no_log_comes_for(bench):
    bench.act("r", 5100)
    bench.close(5100 + WINDOW)
    assert bench.reasons == []
    bench.close(5101 + WINDOW)
    assert bench.reasons == ["unmatched_action"]
    assert bench.join.pending_actions == 0


def test_waiting_actions_of_one_request_expire_each_in_its_time(bench):
    bench.act("r", 5000)
    bench.act("r", 6000, 20)
    bench.close(5500 + WINDOW)
    assert bench.reasons == ["unmatched_action"]
    bench.log("r", 5900)
    assert bench.close(9000) == {"r": [[0, 0], [1, 0], [0, 0]]}


def test_a_kind_that_no_task_uses_needs_nothing(bench):
    bench.act("r", 5100, kind="hover")
    assert bench.join.released == [1]
    assert bench.counts.ignored == 1
    assert bench.join.pending_actions == 0


def test_a_second_log_of_a_request_changes_nothing(bench):
    assert bench.log("r", 5000) is None
    assert bench.log("r", 5000) == 1
    bench.act("r", 5100)
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}
    assert bench.log("r", 5000) == 1, "closed, and remembered"
    assert bench.close(99_999) == {}
    assert bench.counts.duplicates == 2


def test_a_second_action_is_a_duplicate_before_and_after_the_close(bench):
    bench.log("r", 5000)
    bench.act("r", 5100)
    bench.act("r", 5100)
    bench.close(9000)
    bench.act("r", 5100)
    assert bench.counts.duplicates == 2
    assert bench.join.released == [3, 4]
    assert bench.reasons == []


def test_an_item_shown_twice_is_positive_in_both_places(bench):
    bench.log("r", 5000, items=(10, 20, 10))
    bench.act("r", 5100, 10)
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [1, 0]]}


def test_a_log_behind_the_watermark_closes_at_once(bench):
    bench.close(50_000)
    bench.log("r", 5000)
    assert bench.close(50_000) == {"r": NONE}


def test_requests_close_in_the_order_of_their_windows(bench):
    for name, time in (("b", 6000), ("c", 7000), ("a", 5000)):
        bench.log(name, time)
    assert list(bench.close(99_999)) == ["a", "b", "c"]


def test_the_memory_of_closed_requests_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(join_module, "CLOSED_KEPT", 2)
    for i in range(3):
        bench.log(f"r{i}", 5000)
    bench.close(9000)
    for i in range(3):
        bench.act(f"r{i}", 5100)
    assert bench.reasons == ["late_action", "late_action"]
    assert bench.join.pending_actions == 1, "the oldest is forgotten"

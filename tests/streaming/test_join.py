"""The join of one partition: what becomes of each feature log and action."""

from __future__ import annotations

import msgspec
import pytest

from schema.codec import TRAINING_SAMPLES
from schema.config import StreamingConfig, TaskConfig
from streaming.blocks import BlockMaker
from streaming.counts import Counts
from streaming.emission import Emission
from streaming.emitter import MissingLog
from streaming.heads import pack, unpack
from streaming.join import Join
from streaming.late import MemoryStore
from streaming.rules import Rules
from streaming.waiting import Arrival
from streaming.whole import Whole, emission_of
from tests.streaming.make import (
    EARLY,
    HORIZON,
    ON_TIME_ONLY,
    RULES,
    WINDOW,
    action,
    feature_log,
    sampler,
    state,
)


class Bench:
    """A join with its results in readable form; offsets count up by themselves."""

    def __init__(self, rules=RULES, kept=1000, **sampling):
        self.counts = Counts()
        self.sampler = sampler(**sampling)
        self.store = MemoryStore(kept)
        self.join = Join(0, rules, self.sampler, self.store, self.counts)
        self._maker = BlockMaker(0, rules.tasks, self.sampler)
        self._offset = 0

    def log(self, *args, **kwargs):
        self._offset += 1
        packed = pack(feature_log(*args, **kwargs))
        return self.join.open([(packed, unpack(packed), 0)], self._offset)

    def act(self, *args, **kwargs):
        self._offset += 1
        self.join.act(Arrival(action(*args, **kwargs), 7, self._offset, 0))

    def take(self):
        """The blocks that were emitted; all arrive."""
        emissions = [emission_of(e, 2) if isinstance(e, Whole) else e for e in self.join.emitted]
        emissions = [e for e in emissions if isinstance(e, Emission)]
        self.join.emitted.clear()
        for emission in emissions:
            self.join.delivered(emission.request)
        return TRAINING_SAMPLES.decode(
            TRAINING_SAMPLES.encode([self._maker.make(e, 0, 0) for e in emissions])
        )

    def close(self, watermark):
        """{request: label matrix} of what closes."""
        self.join.advance(watermark)
        return {b.request_id: b.label_matrix().tolist() for b in self.take()}

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
    tasks = [TaskConfig(name=n, actions=("click",)) for n in ("engaged", "click")]
    rules = Rules.of(StreamingConfig(window_seconds=1, late_horizon_seconds=0), tasks)
    assert rules.kinds == {"click": 0b11}
    assert (rules.window, rules.reach, rules.makes_late) == (1000, 1000, False)


def test_an_action_may_come_before_its_log(bench):
    bench.act("r", 5100)
    assert len(bench.join.waiting) == 1
    bench.log("r", 5000)
    assert len(bench.join.waiting) == 0
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}


def test_without_late_positives_the_window_ends_on_its_last_millisecond():
    bench = Bench(ON_TIME_ONLY)
    bench.log("r", 5000)
    bench.act("r", 5000 + WINDOW, 10)
    bench.act("r", 5001 + WINDOW, 20)
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}
    assert bench.reasons == ["late_action"]
    bench.act("r", 5100, 30)
    assert bench.reasons == ["late_action"] * 2


def test_an_action_for_an_item_not_shown(bench):
    bench.log("r", 5000)
    bench.act("r", 5100, item=99)
    assert bench.reasons == ["unknown_item"]
    assert bench.close(9000) == {"r": NONE}


def test_without_late_positives_an_action_is_given_up_with_its_window():
    bench = Bench(ON_TIME_ONLY)
    bench.act("r", 5100)
    bench.close(5100 + WINDOW)
    assert bench.reasons == []
    bench.close(5101 + WINDOW)
    assert bench.reasons == ["unmatched_action"]
    assert len(bench.join.waiting) == 0


def test_an_action_whose_log_has_not_come_in_its_window_is_acknowledged_and_kept(bench):
    bench.act("r", 5100)
    bench.close(5101 + WINDOW)
    assert (bench.reasons, bench.join.released, len(bench.join.waiting)) == ([], [1], 0)
    assert [a.parked for a in bench.join.parked.of("r")] == [True]
    bench.log("r", 5000)
    assert bench.close(5101 + WINDOW) == {"r": [[1, 0], [0, 0], [0, 0]]}, (
        "the positive that it would have been"
    )
    assert bench.join.settled[-1].action_offsets is None, "its message was acknowledged before"
    assert bench.join.settled[-1].last_action == -1
    assert not bench.join.parked
    bench.act("r", 5200, 10)
    assert bench.counts.duplicates == 1


def test_it_is_given_up_after_the_horizon_and_stays_until_its_letter_has_arrived(bench):
    bench.act("r", 5100)
    bench.act("r", 5200, 20)
    bench.close(5200 + HORIZON)
    assert bench.reasons == []
    bench.close(5201 + HORIZON)
    bench.close(5202 + HORIZON)
    assert bench.reasons == ["unmatched_action"] * 2
    assert bench.store.group("r") is not None
    bench.join.parked.drop("r")
    assert bench.store.group("r") is None


def test_parked_and_waiting_actions_of_a_request_meet_in_its_labels(bench):
    bench.act("r", 5000)
    bench.close(5001 + WINDOW)
    bench.act("r", 5900, 20)
    bench.log("r", 4000)
    assert bench.close(5001 + WINDOW) == {"r": [[1, 0], [1, 0], [0, 0]]}


def test_more_waiting_actions_than_fit_go_to_the_store_at_once():
    bench = Bench(msgspec.structs.replace(RULES, open_limit=2))
    for name in "abc":
        bench.act(name, 5000)
    assert (len(bench.join.waiting), bench.join.released) == (2, [1])
    bench.log("a", 5000)
    assert bench.close(9000) == {"a": [[1, 0], [0, 0], [0, 0]]}


def test_late_blocks_hold_the_word_on_resolved_actions_back_while_actions_are_parked(bench):
    assert bench.join.late_below(40) == 40
    bench.act("a", 5000)
    bench.act("b", 5000)
    bench.close(9000)
    assert bench.join.late_below(40) == 1
    bench.log("a", 5000)
    bench.close(9000)
    assert bench.join.late_below(40) == 2
    bench.join.whole = False
    assert bench.join.late_below(40) == 0


def test_what_was_parked_before_this_owner_makes_late_positives_of_what_it_closed_without_it(bench):
    bench.join.whole, bench.join.store_behind = False, True
    bench.log("r", 5000)
    bench.log("s", 5000)
    assert bench.close(9000) == {"r": NONE, "s": NONE}
    bench.join.park_again([Arrival(action("r", 5100), 7, 0, 0), Arrival(action("t", 5100), 7, 0, 1)])
    assert bench.take() == []
    bench.join.caught_up()
    (late,) = bench.take()
    assert rows_of(late) == {0: [[1, 0], [1, 0], [1, 0]]}
    assert late.late_offset == 0
    assert bench.store.group("r") is None
    assert bench.store.group("t") is not None


def test_nothing_is_acknowledged_for_being_parked_while_the_store_is_behind(bench):
    """Its request may be closed, and known to the next owner, who would not look for what was acknowledged."""
    bench.join.whole, bench.join.store_behind = False, True
    bench.act("old", 5100)
    bench.close(99_999)
    assert (len(bench.join.waiting), bench.join.released) == (1, [])
    bench.join.caught_up()
    bench.close(99_999)
    assert (len(bench.join.waiting), bench.join.released) == (0, [1])


def test_another_worker_may_have_joined_what_is_parked_here(bench):
    bench.act("r", 5100)
    bench.close(9000)
    bench.store.put_state("r", state(9, 0b11))
    bench.close(5101 + HORIZON)
    assert bench.reasons == []
    assert bench.store.group("r") is None


def test_a_kind_that_no_task_uses_needs_nothing(bench):
    bench.act("r", 5100, kind="hover")
    assert bench.join.released == [1]
    assert bench.counts.ignored == 1
    assert len(bench.join.waiting) == 0


def test_a_second_log_of_a_request_changes_nothing(bench):
    assert bench.log("r", 5000) == []
    assert bench.log("r", 5000) == [1]
    bench.act("r", 5100)
    assert bench.close(9000) == {"r": [[1, 0], [0, 0], [0, 0]]}
    assert bench.log("r", 5000) == [1], "closed, and remembered"
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


def test_the_memory_of_closed_requests_is_bounded():
    bench = Bench(ON_TIME_ONLY, kept=2)
    for i in range(3):
        bench.log(f"r{i}", 5000)
    bench.close(9000)
    for i in range(3):
        bench.act(f"r{i}", 5100)
    assert bench.reasons == ["late_action", "late_action"]
    assert len(bench.join.waiting) == 1, "the oldest is forgotten"


def rows_of(block):
    """{row: (labels, mask, retract)}."""
    columns = zip(
        block.row_indices().tolist(),
        block.label_matrix().astype(int).tolist(),
        block.mask_matrix().tolist(),
        block.retract_matrix().tolist(),
        strict=True,
    )
    assert block.problem() is None
    return {row: values for row, *values in columns}


def test_an_action_after_the_close_takes_its_negative_back(bench):
    bench.log("r", 5000)
    bench.close(9000)
    bench.act("r", 5100, 20, "like")
    (block,) = bench.take()
    assert rows_of(block) == {1: [[0, 1], [0, 1], [0, 1]]}
    assert block.late_offset == 2
    assert block.items == feature_log("r", 0).items[8:16]
    assert bench.join.settled[-1].action_offsets == [2]


def test_it_counts_as_long_as_the_horizon_reaches(bench):
    bench.log("r", 5000)
    bench.close(9000)
    bench.act("r", 5000 + HORIZON)
    bench.act("r", 5001 + HORIZON, 20)
    assert [rows_of(b) for b in bench.take()] == [{0: [[1, 0], [1, 0], [1, 0]]}]
    assert bench.reasons == ["late_action"]


def test_a_late_action_says_a_thing_once(bench):
    bench.log("r", 5000)
    bench.close(9000)
    for _ in range(2):
        bench.act("r", 5100)
    assert len(bench.take()) == 1
    bench.act("r", 5200)
    assert bench.take() == []
    assert bench.counts.duplicates == 2
    assert bench.join.released == [3, 4]


def test_a_late_action_may_come_while_the_close_is_on_its_way(bench):
    bench.log("r", 5000)
    bench.join.advance(9000)
    bench.act("r", 5100)
    close, late = bench.take()
    assert rows_of(close)[0] == [[0, 0], [1, 1], [0, 0]]
    assert rows_of(late) == {0: [[1, 0], [1, 0], [1, 0]]}


def test_early_positives_leave_at_once_and_the_rest_at_the_close():
    bench = Bench(EARLY)
    bench.log("r", 5000)
    bench.act("r", 5100, 20)
    (early,) = bench.take()
    assert rows_of(early) == {1: [[1, 0], [1, 0], [0, 0]]}
    assert early.late_offset == -1
    assert bench.join.settled == [], "its action is acknowledged with the close"
    bench.join.advance(9000)
    (close,) = bench.take()
    assert rows_of(close) == {
        0: [[0, 0], [1, 1], [0, 0]],
        1: [[1, 0], [0, 1], [0, 0]],
        2: [[0, 0], [1, 1], [0, 0]],
    }
    bench.act("r", 5100, 20, "share")
    assert [rows_of(b) for b in bench.take()] == [{1: [[1, 1], [0, 1], [0, 1]]}]


def test_early_labels_of_an_action_that_came_first_leave_with_the_log():
    bench = Bench(EARLY)
    bench.act("r", 5100, 30)
    bench.log("r", 5000)
    assert [list(rows_of(b)) for b in bench.take()] == [[2]]


def test_dropped_rows_come_whole_when_an_action_makes_them_matter():
    bench = Bench(mode="uniform", rate=1e-9)
    bench.log("r", 5000)
    bench.act("r", 5100, 10)
    bench.join.advance(9000)
    (close,) = bench.take()
    assert rows_of(close) == {0: [[1, 0], [1, 1], [0, 0]]}
    assert bench.counts.dropped == 2
    bench.act("r", 5200, 30, "like")
    (late,) = bench.take()
    assert rows_of(late) == {2: [[0, 1], [1, 1], [0, 0]]}
    bench.act("r", 5200, 30, "click")
    assert [rows_of(b) for b in bench.take()] == [{2: [[1, 1], [1, 0], [1, 0]]}]


def test_a_request_of_which_nothing_is_kept_needs_no_block():
    bench = Bench(mode="uniform", rate=1e-9)
    bench.log("r", 5000)
    assert bench.close(9000) == {}
    assert [r.offset for r in bench.join.settled] == [1]


def test_open_requests_beyond_the_limit_leave_their_features_in_the_store():
    bench = Bench(msgspec.structs.replace(EARLY, open_limit=1))
    bench.log("a", 5000)
    bench.log("b", 5001)
    assert bench.counts.spilled == 1
    assert bench.store.log("b") is not None
    bench.act("b", 5100, 20)
    assert [b.request_id for b in bench.take()] == ["b"]
    assert set(bench.close(9000)) == {"a", "b"}


def test_a_store_that_lost_an_open_request_is_no_reason_to_go_on():
    bench = Bench(msgspec.structs.replace(RULES, open_limit=1), kept=1)
    bench.log("a", 5000)
    bench.log("b", 5001)
    bench.store._logs.clear()
    with pytest.raises(MissingLog, match="'b'"):
        bench.join.advance(9000)


def test_nothing_counts_before_the_past_is_known(bench):
    bench.join.held = True
    bench.log("r", 5000)
    bench.act("r", 5100)
    assert bench.close(9000) == {}
    bench.store.put_state("r", state(1, 0b11_11_11))
    bench.join.recalled()
    (late,) = bench.take()
    assert rows_of(late) == {0: [[1, 0], [1, 0], [1, 0]]}, "an earlier owner had emitted it as a negative"
    assert bench.close(9000) == {}
    assert [r.offset for r in bench.join.settled] == [1]


def test_actions_wait_for_a_store_that_is_behind(bench):
    bench.join.whole, bench.join.store_behind = False, True
    bench.act("old", 5100)
    bench.join.advance(99_999)
    assert bench.reasons == []
    bench.store.put_log("old", pack(feature_log("old", 5000)))
    bench.store.put_state("old", state(1, 0b11))
    bench.join.caught_up()
    assert [rows_of(b) for b in bench.take()] == [{0: [[1, 0], [1, 0], [1, 0]]}]


def test_what_one_message_says_of_a_closed_request_leaves_as_one_block():
    """A reader knows a late pair by its message: said in two blocks, a negative and its retraction would be one."""
    bench = Bench(mode="uniform", rate=1e-9)
    bench.log("r", 5000)
    bench.close(9000)
    for kind in ("click", "like"):
        bench.join.act(Arrival(action("r", 5100, 30, kind), 7, 40, 0))
    (late,) = bench.take()
    assert rows_of(late) == {2: [[1, 1], [1, 1], [0, 0]]}
    assert bench.join.settled[-1].action_offsets == [40, 40]

"""What a shard has lost is found by its clock at a push, or by its last step between pushes."""

from __future__ import annotations

from trainer.lost import Loss, LossWatch


def pushed(watch: LossWatch, steps: range) -> None:
    for step in steps:
        assert watch.pushed(step, 10, [step + 7, step], [True, True]) == []


def test_a_clock_that_went_back_tells_the_steps():
    watch = LossWatch(2)
    pushed(watch, range(1, 11))
    # shard 0 came back as of clock 14, that is of step 7, and applied step 11
    assert watch.pushed(11, 10, [15, 11], [True, True]) == [Loss(0, 0, 8, 10, 30)]
    assert watch.pushed(12, 10, [16, 12], [True, True]) == []


def test_a_restart_that_lost_nothing_is_no_loss():
    watch = LossWatch(2)
    pushed(watch, range(1, 5))
    assert watch.observed(0, 5, 4) == []
    assert watch.pushed(5, 10, [12, 5], [True, True]) == []


def test_a_shard_that_is_asked_tells_its_last_step():
    watch = LossWatch(2)
    pushed(watch, range(1, 11))
    assert watch.observed(1, 77, 8) == [Loss(1, 77, 9, 10, 20)]
    assert watch.observed(1, 77, 8) == []
    assert watch.pushed(11, 10, [18, 9], [True, True]) == []


def test_a_replayed_push_that_was_applied_before_is_no_loss():
    watch = LossWatch(2)
    pushed(watch, range(1, 4))
    assert watch.pushed(4, 10, [13, 6], [False, False]) == []
    assert watch.pushed(5, 10, [13, 6], [False, False]) == []
    assert watch.pushed(6, 10, [14, 7], [True, True]) == []


def test_a_saved_watch_goes_on():
    watch, after = LossWatch(2), LossWatch(2)
    pushed(watch, range(1, 6))
    after.restore(watch.state())
    assert after.observed(0, 3, 2) == [Loss(0, 3, 3, 5, 30)]

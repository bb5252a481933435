"""Due times and rates on a clock that the test moves."""

from __future__ import annotations

from tests.trainer.fakes import Clock
from trainer.pace import Every, Rate


def test_due_once_in_its_time():
    clock = Clock()
    every = Every(2.0, clock)
    assert not every.due()
    clock.now += 2.0
    assert every.due()
    assert not every.due()
    clock.now += 1.5
    every.restart()
    clock.now += 1.5
    assert not every.due()
    clock.now += 0.5
    assert every.due()


def test_a_rate_is_of_the_last_seconds():
    clock = Clock()
    rate = Rate(5.0, clock)
    assert rate.value() == 0
    clock.now += 2.0
    rate.add(100)
    assert rate.value() == 50
    clock.now += 4.0
    rate.add(50)
    assert rate.value() == 30
    clock.now += 10.0
    assert rate.value() == 0

"""Pacing by an injected clock."""

from __future__ import annotations

import pytest

from simulation.pacing import Pacer, parse_speed


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_events_come_speed_times_as_fast_as_they_happened() -> None:
    clock = _Clock()
    pacer = Pacer(10.0, clock, clock.sleep)
    for event_time in (5_000, 5_000, 15_000, 16_000):
        pacer.wait(event_time)
    assert clock.slept == pytest.approx([1.0, 0.1])


def test_a_late_event_is_not_held_back() -> None:
    clock = _Clock()
    pacer = Pacer(1.0, clock, clock.sleep)
    pacer.wait(0)
    clock.now += 3
    pacer.wait(2_000)
    pacer.wait(4_000)
    assert clock.slept == pytest.approx([1.0])


def test_max_never_waits() -> None:
    clock = _Clock()
    pacer = Pacer(None, clock, clock.sleep)
    pacer.wait(0)
    pacer.wait(1_000_000)
    assert clock.slept == []


@pytest.mark.parametrize(("text", "speed"), [("max", None), ("1", 1.0), ("3600", 3600.0), ("0.5", 0.5)])
def test_speeds(text: str, speed: float | None) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "fast", "", "nan", "inf"])
def test_a_wrong_speed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="legal is max, or a number above 0"):
        parse_speed(text)

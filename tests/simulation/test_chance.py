"""Randomness by number."""

from __future__ import annotations

import numpy as np
import pytest

from simulation.chance import Purpose, uniform


def test_draws_are_even_and_independent() -> None:
    numbers = np.arange(100_000)
    one, two = (uniform(3, purpose, numbers) for purpose in (Purpose.CLICK, Purpose.LIKE))
    for draws in (one, two):
        assert np.histogram(draws, 10, (0, 1))[0] == pytest.approx(10_000, rel=0.05)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.01
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.01


def test_a_draw_depends_on_its_numbers_alone() -> None:
    table = uniform(1, Purpose.WATCH, np.arange(5)[:, None], np.arange(4))
    assert table.shape == (5, 4)
    assert table[3, 2] == uniform(1, Purpose.WATCH, 3, 2)[0]
    assert len(np.unique(table)) == 20
    assert uniform(2, Purpose.WATCH, 3, 2)[0] != table[3, 2]

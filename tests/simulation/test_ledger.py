"""The account of what was truly served."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from simulation.ledger import Ledger, Served


def test_recent_means_by_arm() -> None:
    ledger = Ledger()
    for time, frozen, interest in (
        (0, False, 0.9),
        (5_000, False, 0.2),
        (9_000, False, 0.4),
        (9_500, True, 0.1),
    ):
        ledger.add(Served(time, 1, frozen, interest))
    recent = ledger.recent(14_000)
    assert recent["live"] == pytest.approx(0.3)
    assert recent["frozen"] == pytest.approx(0.1)
    assert ledger.recent(60_000) == {"live": None, "frozen": None}


def test_it_is_written_whole_and_bounded(tmp_path: Path) -> None:
    ledger = Ledger(capacity=3)
    assert pq.read_table(ledger.write(tmp_path / "new")).num_rows == 0
    for time in range(5):
        ledger.add(Served(time, time * 2, time % 2 == 0, time / 10))
    assert pq.read_table(ledger.write(tmp_path)).to_pydict() == {
        "time": [2, 3, 4],
        "user": [4, 6, 8],
        "frozen": [True, False, True],
        "interest": [0.2, 0.3, 0.4],
    }

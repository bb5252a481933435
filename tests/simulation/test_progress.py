"""What a replay shows of itself."""

from __future__ import annotations

import pytest

from simulation.progress import progress


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    with progress(1_000, lambda: now[0]) as report:
        for second in range(11):
            now[0] = float(second)
            report(second * 10, 1_650_812_741_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "replay: 50 of 1,000 exposures, 10/s, at 2022-04-24 15:05 UTC",
        "replay: 100 of 1,000 exposures, 10/s, at 2022-04-24 15:05 UTC",
    ]


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(20) as report:
        report(20, 1_650_812_741_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert "20/20" in err
    assert "2022-04-24 15:05 UTC" in err

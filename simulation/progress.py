"""Shows how far a replay has come: a bar on a terminal, a line every few seconds elsewhere (on stderr)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_SECONDS: Final = 5.0
_DRAW_SECONDS: Final = 0.1

Report = Callable[[int, int], None]
"""Called with the exposures sent so far and the event time (ms) reached; cheap, so call it every time."""


@contextmanager
def progress(total: int, clock: Callable[[], float] = time.monotonic) -> Iterator[Report]:
    """A reporter of a replay of `total` exposures, drawn where stderr is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Throttled(_Lines(total, clock), _LINE_SECONDS, clock)
        return
    columns = (
        TextColumn("replay"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[date]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, rate=0.0, date="")
        began = clock()

        def draw(done: int, event_time: int) -> None:
            rate = done / max(clock() - began, 1e-9)
            bar.update(task, completed=done, rate=rate, date=_date(event_time))

        drawn = _Throttled(draw, _DRAW_SECONDS, clock)
        yield drawn
        drawn.last()


class _Throttled:
    """Passes on at most one report every `seconds`; `last` passes on the newest."""

    def __init__(self, report: Report, seconds: float, clock: Callable[[], float]) -> None:
        self._report = report
        self._seconds = seconds
        self._clock = clock
        self._next = clock() + seconds
        self._newest: tuple[int, int] | None = None

    def __call__(self, done: int, event_time: int) -> None:
        self._newest = done, event_time
        if self._clock() >= self._next:
            self._next = self._clock() + self._seconds
            self._report(done, event_time)

    def last(self) -> None:
        if self._newest:
            self._report(*self._newest)


class _Lines:
    def __init__(self, total: int, clock: Callable[[], float]) -> None:
        self._total = total
        self._clock = clock
        self._began = clock()

    def __call__(self, done: int, event_time: int) -> None:
        rate = done / max(self._clock() - self._began, 1e-9)
        line = f"replay: {done:,} of {self._total:,} exposures, {rate:,.0f}/s, at {_date(event_time)}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _date(event_time: int) -> str:
    return datetime.fromtimestamp(event_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")

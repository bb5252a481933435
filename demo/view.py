"""The demo on a terminal: a live page of rich, or plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.collect import Report, Snapshot


class View(Protocol):
    """Something that shows the demo."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Says what is being done."""

    def show(self, snapshot: Snapshot) -> None:
        """Shows the state of the loop."""


class LivePage:
    """The state of the loop, redrawn in place."""

    def __init__(self, console: Console, trouble: Callable[[], list[str]]) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._steps: deque[str] = deque(maxlen=3)
        self._snapshot = Snapshot()
        self._trouble = trouble

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        """Adds a line to the steps."""
        self._steps.append(text)
        self._draw()

    def show(self, snapshot: Snapshot) -> None:
        """Redraws the page."""
        self._snapshot = snapshot
        self._draw()

    def _draw(self) -> None:
        parts: list[Any] = [
            Text(step, style="bold" if i == len(self._steps) - 1 else "dim")
            for i, step in enumerate(self._steps)
        ]
        if self._snapshot.trainer or any(self._snapshot.joiners):
            parts += [_loop(self._snapshot), _tasks(self._snapshot.trainer or {})]
        parts += [Text(line, style="yellow", no_wrap=True) for line in self._trouble()[-3:]]
        self._live.update(Panel(Group(*parts), title="Headwater", border_style="blue"))


class PlainLines:
    """A line a step, and one every few seconds for the state."""

    def __init__(self, console: Console, every: float = 5.0) -> None:
        self._console = console
        self._every = every
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def say(self, text: str) -> None:
        """Prints the line."""
        self._console.print(text, highlight=False)

    def show(self, snapshot: Snapshot) -> None:
        """Prints the state if the last was long enough ago."""
        if time.monotonic() < self._next or not snapshot.trainer:
            return
        self._next = time.monotonic() + self._every
        figures = [f"{name} {value}" for name, value in _figures(snapshot)]
        aucs = ", ".join(f"{k} {_number(v, 3)}" for k, v in _metric(snapshot.trainer, "auc").items())
        self._console.print(f"  {'; '.join(figures)}; AUC {aucs}", highlight=False, soft_wrap=True)


def _loop(snapshot: Snapshot) -> Table:
    table = Table.grid(padding=(0, 3))
    figures = _figures(snapshot)
    for left, right in zip(figures[::2], [*figures[1::2], ("", "")], strict=False):
        table.add_row(Text(left[0], style="dim"), left[1], Text(right[0], style="dim"), right[1])
    return table


def _figures(snapshot: Snapshot) -> list[tuple[str, str]]:
    trainer = snapshot.trainer or {}
    rows = sum(sum(s["rows"].values()) for s in snapshot.shards if s)
    replicas = [r for r in snapshot.replicas if r and not r.get("paused")]
    restarts = {name: n for name, n in snapshot.restarts.items() if n}
    return [
        ("events", f"{snapshot.joined('feature_logs') + snapshot.joined('actions'):,}"),
        ("samples trained", f"{snapshot.samples_trained:,}"),
        ("samples/s", _number(trainer.get("samples_per_second"), 0)),
        ("open requests", f"{snapshot.joined('open_requests'):,}"),
        ("table rows", f"{rows:,}"),
        ("replica behind", _replica_lag(replicas)),
        ("freshness p50/p99", _freshness(replicas)),
        ("served interest", _interest(snapshot)),
        ("restarts", ", ".join(f"{k} {n}" for k, n in restarts.items()) or "none"),
    ]


def _replica_lag(replicas: list[Report]) -> str:
    ages = [r["seconds_since_sync"] for r in replicas if r.get("seconds_since_sync") is not None]
    return f"{max(ages):.1f} s" if ages else "-"


def _interest(snapshot: Snapshot) -> str:
    served = (snapshot.simulation or {}).get("served_interest") or {}
    known = [f"{name} {value:.3f}" for name, value in served.items() if value is not None]
    return ", ".join(known) or "-"


def _freshness(replicas: list[Report]) -> str:
    found = [r["freshness"] for r in replicas if r["freshness"].get("count")]
    if not found:
        return "-"
    return f"{max(f['p50'] for f in found):.1f} / {max(f['p99'] for f in found):.1f} s"


def _tasks(trainer: Report) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in ("task", "AUC", "baseline", "entropy", "calibration"):
        table.add_column(name, justify="left" if name == "task" else "right", header_style="dim")
    baseline = (trainer.get("baseline") or {}).get("overall") or {}
    for task in trainer.get("tasks", ()):
        table.add_row(
            task,
            _number(_metric(trainer, "auc").get(task), 3),
            _number((baseline.get("auc") or {}).get(task), 3),
            _number(_metric(trainer, "normalised_entropy").get(task), 3),
            _number(_metric(trainer, "calibration").get(task), 3),
        )
    return table


def _metric(trainer: Report, name: str) -> dict[str, float | None]:
    return (trainer.get("overall") or {}).get(name) or {}


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"

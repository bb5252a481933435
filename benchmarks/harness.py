"""What the benchmarks share: alternating the sides of a comparison, and the one JSON line at the end."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.environment import machine, versions


@dataclass
class Benchmark:
    """Collects the figures and bars of one run."""

    name: str
    bars: dict[str, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Progress, on stderr so that the last line of stdout stays the result."""
        sys.stderr.write(f"{self.name}: {text}\n")

    def alternate(self, sides: Mapping[str, Callable[[], float]], rounds: int = 5) -> list[dict[str, float]]:
        """Runs every side once a round, in turn; each returns its figure (a rate, say).

        Keeps each side's median, minimum and maximum under its name in `measured`.
        """
        results: list[dict[str, float]] = []
        for number in range(rounds):
            results.append({name: side() for name, side in sides.items()})
            figures = ", ".join(f"{name} {value:,.4g}" for name, value in results[-1].items())
            self.say(f"round {number + 1} of {rounds}: {figures}")
        for name in sides:
            values = [r[name] for r in results]
            self.measured[name] = {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
            }
        return results

    def bar(
        self, name: str, value: float, *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        """Holds `value` to its bounds."""
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bounds = {"at_least": at_least, "at_most": at_most}
        self.bars[name] = {"value": value, **{k: v for k, v in bounds.items() if v is not None}, "met": met}

    def ratio_bar(
        self,
        name: str,
        results: list[dict[str, float]],
        above: str,
        below: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Holds the median over the rounds of `above` / `below` to its bounds, and keeps the spread."""
        ratios = [r[above] / r[below] for r in results]
        self.measured[f"{name}_spread"] = {"min": min(ratios), "max": max(ratios)}
        self.bar(name, statistics.median(ratios), at_least=at_least, at_most=at_most)

    def finish(self) -> None:
        """Prints the JSON line."""
        line = {
            "benchmark": self.name,
            "bars": self.bars,
            "measured": self.measured,
            "machine": machine(),
            "versions": versions(),
        }
        sys.stdout.write(json.dumps(line) + "\n")


def rate(work: Callable[[], object], count: int) -> float:
    """How many a second `work`, which handles `count`, gets done."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)

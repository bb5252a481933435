"""How long to wait before a dead process is started again. Pure: takes durations, returns durations."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off: `first` seconds, doubled after every early death, at most `most`.

    A process that ran longer than `most` has recovered: its next death counts as the first.
    """

    first: float
    most: float
    deaths: int = 0

    def after_death(self, uptime: float) -> Backoff:
        """The state after a death `uptime` seconds after the start."""
        return replace(self, deaths=1 if uptime > self.most else self.deaths + 1)

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        doublings = min(max(self.deaths - 1, 0), 62)
        return min(self.first * 2.0**doublings, self.most)

"""What makes a label of an action, as configured. Values only."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schema.config import StreamingConfig, TaskConfig


class Rules(msgspec.Struct, frozen=True):
    """The window and the reach of late actions in ms from a request's time, and the tasks in order.

    `kinds` is the bit set of the tasks of each kind of action. With `early`, positives do not wait for the
    close. `open_limit` is how many open requests keep their features in memory.
    """

    window: int
    reach: int
    tasks: tuple[str, ...]
    kinds: dict[str, int]
    early: bool = False
    open_limit: int = 100_000

    @classmethod
    def of(cls, streaming: StreamingConfig, tasks: Sequence[TaskConfig]) -> Rules:
        """The rules that the configuration states."""
        kinds: dict[str, int] = {}
        for bit, task in enumerate(tasks):
            for kind in task.actions:
                kinds[kind] = kinds.get(kind, 0) | 1 << bit
        window = round(streaming.window_seconds * 1000)
        return cls(
            window,
            max(window, round(streaming.late_horizon_seconds * 1000)),
            tuple(t.name for t in tasks),
            kinds,
            streaming.emission == "on_action",
            streaming.open_limit,
        )

    @property
    def all_tasks(self) -> int:
        """The bit set of all tasks."""
        return (1 << len(self.tasks)) - 1

    @property
    def makes_late(self) -> bool:
        """Whether late actions make labels."""
        return self.reach > self.window

"""What the joins of one process have done since it started. Plain numbers, read from other threads."""

from __future__ import annotations

from collections import Counter


class Counts:
    """`duplicates` of either stream and `ignored` actions (of a kind that no task uses) ended quietly."""

    __slots__ = (
        "actions",
        "blocks",
        "dead_letters",
        "duplicates",
        "feature_logs",
        "heartbeats",
        "ignored",
        "rows",
    )

    def __init__(self) -> None:
        self.feature_logs = 0
        self.actions = 0
        self.heartbeats = 0
        self.duplicates = 0
        self.ignored = 0
        self.blocks = 0
        self.rows = 0
        self.dead_letters: Counter[str] = Counter()

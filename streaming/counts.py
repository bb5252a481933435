"""What the joins of one process have done since it started. Plain numbers, read from other threads."""

from __future__ import annotations

from collections import Counter


class Counts:
    """`duplicates` of either stream and `ignored` actions (of a kind that no task uses) ended quietly.

    `rows` are by kind of emission: "close", "early", "late". `late` blocks found their request in the late
    store, `dropped` rows are those of sampling, `spilled` requests left their features on disk while open.
    `parked` actions went to the late store because no feature log had come in their window.
    """

    __slots__ = (
        "actions",
        "blocks",
        "dead_letters",
        "dropped",
        "duplicates",
        "feature_logs",
        "heartbeats",
        "ignored",
        "late",
        "parked",
        "rows",
        "spilled",
    )

    def __init__(self) -> None:
        self.feature_logs = 0
        self.actions = 0
        self.heartbeats = 0
        self.duplicates = 0
        self.ignored = 0
        self.blocks = 0
        self.rows: Counter[str] = Counter()
        self.late = 0
        self.parked = 0
        self.dropped = 0
        self.spilled = 0
        self.dead_letters: Counter[str] = Counter()

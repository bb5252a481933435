"""The newest scored rows, for what cannot be counted in bins: the AUC within each user. Pure.

They are no part of a checkpoint: after a restart they are gathered anew.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from models.metrics import grouped_auc
from schema.records import F32, I64

ROWS_KEPT: Final = 50_000


class RecentRows:
    """The newest batches of scored rows, of which there are at least ROWS_KEPT once that many were scored.

    Args:
        tasks: how many there are.
        kept: how many rows to keep.
    """

    def __init__(self, tasks: int, kept: int = ROWS_KEPT) -> None:
        self._tasks = tasks
        self._kept = kept
        self._batches: deque[tuple[F32, F32, F32, I64]] = deque()
        self._rows = 0
        self._found: list[float] | None = None

    def __len__(self) -> int:
        return self._rows

    def update(self, predictions: F32, labels: F32, mask: F32, users: I64) -> None:
        """Add n rows: three arrays (n, T), and whose they are (n,)."""
        self._batches.append((predictions, labels, mask, users))
        self._rows += len(users)
        while self._rows - len(self._batches[0][3]) >= self._kept:
            self._rows -= len(self._batches.popleft()[3])
        self._found = None

    def grouped_auc(self) -> list[float]:
        """By task, as `models.metrics.grouped_auc`."""
        if self._found is None:
            self._found = [self._of(task) for task in range(self._tasks)]
        return self._found

    def _of(self, task: int) -> float:
        if not self._batches:
            return float("nan")
        predictions, labels, mask, users = (
            np.concatenate(columns) for columns in zip(*list(self._batches), strict=True)
        )
        counted = mask[:, task] > 0
        return grouped_auc(predictions[counted, task], labels[counted, task], users[counted])

"""The AUC within each user, over the newest rows: whether the order that a user saw was right for that user.

Pure. A ranking orders what one user is shown; the plain AUC also counts how well users are told apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from models.metrics import grouped_auc
from schema.records import F32, I64

ROWS: Final = 20_000


class SavedByUser(msgspec.Struct, frozen=True, array_like=True):
    """The newest n rows in a checkpoint, oldest first: users <i8 (n,), the others <f4, (n, T) and (n,)."""

    users: bytes
    predictions: bytes
    labels: bytes
    mask: bytes
    weights: bytes


class _Rows(NamedTuple):
    """Users i64 (n,); predictions, labels and mask f32 (n, T); weights f32 (n,)."""

    users: I64
    predictions: F32
    labels: F32
    mask: F32
    weights: F32


class ByUser:
    """The newest `rows` rows of T tasks."""

    def __init__(self, tasks: Sequence[str], rows: int = ROWS) -> None:
        self._tasks, self._rows = tuple(tasks), rows
        self._parts: deque[_Rows] = deque()
        self._count = 0

    def update(self, predictions: F32, labels: F32, mask: F32, weights: F32, users: I64) -> None:
        """Count n rows: three arrays (n, T), what each row counts for (n,), and whose it is (n,)."""
        self._add(_Rows(users, predictions, labels, mask, weights))

    def report(self) -> dict[str, float]:
        """By task, each user's AUC averaged by impressions; NaN where no user has both labels."""
        rows, found = self._newest(), {}
        for k, task in enumerate(self._tasks):
            at = rows.mask[:, k] > 0
            columns = (rows.predictions[at, k], rows.labels[at, k], rows.users[at], rows.weights[at])
            found[task] = grouped_auc(*columns)
        return found

    def saved(self) -> SavedByUser:
        """All rows, for `restore`."""
        users, *others = self._newest()
        return SavedByUser(users.astype("<i8").tobytes(), *(o.astype("<f4").tobytes() for o in others))

    def restore(self, saved: SavedByUser) -> None:
        """Be what `saved` was."""
        self._parts.clear()
        self._count = 0
        users = np.frombuffer(saved.users, "<i8").astype(np.int64)
        parts, width = (saved.predictions, saved.labels, saved.mask), len(self._tasks)
        first, second, third = (np.frombuffer(part, "<f4").reshape(-1, width) for part in parts)
        self._add(_Rows(users, first, second, third, np.frombuffer(saved.weights, "<f4")))

    def _add(self, rows: _Rows) -> None:
        self._parts.append(rows)
        self._count += len(rows.users)
        while self._count - len(self._parts[0].users) >= self._rows:
            self._count -= len(self._parts.popleft().users)

    def _newest(self) -> _Rows:
        """The rows that count, oldest first."""
        if not self._parts:
            nothing = np.empty((0, len(self._tasks)), np.float32)
            return _Rows(np.empty(0, np.int64), nothing, nothing, nothing, np.empty(0, np.float32))
        joined = (np.concatenate(column)[-self._rows :] for column in zip(*self._parts, strict=True))
        return _Rows(*joined)

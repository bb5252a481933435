"""How well retrieval finds what users engage with next, before it learns from it.

Pure. An engagement is found if its item lies on one of the paths of its user's beam. Popularity is asked the
same question: is the item among as many of the most frequent ones as lie on that beam?
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.retrieval.beam import Beams
from schema.records import I64

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

_DECAY: Final = 0.99
_NAMES: Final = ("pairs", "found", "popular", "items")


class SavedQuest(msgspec.Struct, frozen=True, array_like=True):
    """Both counts in a checkpoint, <f8 (4,)."""

    overall: bytes
    recent: bytes


class Quest:
    """Counts of engagements, of those found, of those popularity finds, and of the items on their beams."""

    def __init__(self) -> None:
        self._overall: F64 = np.zeros(len(_NAMES))
        self._recent: F64 = np.zeros(len(_NAMES))

    def count(self, beams: Beams, users: I64, paths: I32, sizes: I64, ranks: I64) -> None:
        """Count m engagements.

        Args:
            beams: of the users.
            users: the row there of each one's user, (m,).
            paths: the paths of each one's item, (m, J), -1 for none.
            sizes: how many items lie on each path of the structure, (K^D,).
            ranks: how many items are more frequent than each one's, (m,).
        """
        beam = beams.paths[users]
        found = ((paths[:, :, None] == beam[:, None, :]) & (paths >= 0)[:, :, None]).any(axis=(1, 2))
        items = sizes[beams.paths].sum(axis=1)[users]
        counted = np.array([len(users), found.sum(), (ranks < items).sum(), items.sum()], np.float64)
        self._overall += counted
        self._recent = _DECAY * self._recent + counted

    def report(self) -> dict[str, Any]:
        """The recall of beams and of popularity, and the mean number of items looked at.

        `recent` is by batches, each of which counts for a hundredth less than the one after it. An item on
        two paths of a beam counts twice among those looked at, which favours popularity.
        """
        return {"recent": _ratios(self._recent), "overall": _ratios(self._overall)}

    def saved(self) -> SavedQuest:
        """All counts, for `restore`."""
        return SavedQuest(self._overall.tobytes(), self._recent.tobytes())

    def restore(self, saved: SavedQuest) -> None:
        """Be what `saved` was."""
        self._overall, self._recent = np.frombuffer(saved.overall).copy(), np.frombuffer(saved.recent).copy()


def _ratios(counts: F64) -> dict[str, Any]:
    pairs, found, popular, items = counts.tolist()
    if not pairs:
        return {"recall": None, "recall_of_popular": None, "items": None}
    return {"recall": found / pairs, "recall_of_popular": popular / pairs, "items": items / pairs}

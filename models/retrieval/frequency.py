"""How often items come in the stream, which a sampled softmax must correct for (Yi et al., RecSys 2019)."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from schema.records import F32

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_RESCALE: Final = 1e100


class SavedFrequencies(msgspec.Struct, frozen=True, array_like=True):
    """Frequencies in a checkpoint: `counts` <f8 by row."""

    counts: bytes
    total: float
    unit: float


class ItemFrequencies:
    """Decayed counts by row. Instead of decaying all of them, each batch counts for more than the one before.

    Args:
        decay: what a count is worth one batch later, above 0, at most 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay: {decay}; legal is above 0, at most 1")
        self._decay = decay
        self.counts: F64 = np.zeros(0)
        self.total, self.unit = 0.0, 1.0

    def count(self, rows: I64) -> None:
        """Count a batch's positives, rows (m,), repeated as they come."""
        if not len(rows):
            return
        self.grow(int(rows.max()) + 1)
        self.unit /= self._decay
        np.add.at(self.counts, rows, self.unit)
        self.total += self.unit * len(rows)
        if self.unit > _RESCALE:
            self.counts /= self.unit
            self.total, self.unit = self.total / self.unit, 1.0

    def grow(self, rows: int) -> None:
        """Have counts of at least `rows` rows; what was never counted has none."""
        if rows > len(self.counts):
            more = max(rows, 2 * len(self.counts)) - len(self.counts)
            self.counts = np.concatenate([self.counts, np.zeros(more)])

    def forget(self, rows: I64) -> None:
        """Drop the counts of `rows`: their items are gone, and others will take the rows."""
        rows = rows[rows < len(self.counts)]
        self.total = max(self.total - float(self.counts[rows].sum()), 0.0)
        self.counts[rows] = 0

    def log_inclusion(self, rows: I64, draws: int, even: float = 0.0) -> F32:
        """log(1 - (1 - p)^draws (1 - even)): the chance to be among `draws` positives, or drawn.

        `even` is the chance to be drawn besides, alike for all; without it the rows have to be counted ones.
        """
        share = np.minimum(self.counts[rows] / self.total, 1 - 1e-12)
        chances: F32 = np.log(-np.expm1(draws * np.log1p(-share) + np.log1p(-even))).astype(np.float32)
        return chances

    def ranks(self, rows: I64) -> I64:
        """How many rows count for more than each of `rows` (n,)."""
        ordered = np.sort(self.counts)
        ranks: I64 = len(ordered) - np.searchsorted(ordered, self.counts[rows], side="right")
        return ranks

    def saved(self) -> SavedFrequencies:
        """All counts, for `restore`."""
        return SavedFrequencies(self.counts.astype("<f8").tobytes(), self.total, self.unit)

    def restore(self, saved: SavedFrequencies) -> None:
        """Be what `saved` was."""
        self.counts = np.frombuffer(saved.counts, "<f8").astype(np.float64)
        self.total, self.unit = saved.total, saved.unit

"""How often items come in the stream, which a sampled softmax must correct for (Yi et al., RecSys 2019)."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.records import F32

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_RESCALE: Final = 1e100


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
        if rows.max() >= len(self.counts):
            more = max(int(rows.max()) + 1, 2 * len(self.counts)) - len(self.counts)
            self.counts = np.concatenate([self.counts, np.zeros(more)])
        self.unit /= self._decay
        np.add.at(self.counts, rows, self.unit)
        self.total += self.unit * len(rows)
        if self.unit > _RESCALE:
            self.counts /= self.unit
            self.total, self.unit = self.total / self.unit, 1.0

    def log_inclusion(self, rows: I64, draws: int) -> F32:
        """log(1 - (1 - p)^draws) of counted rows: the chance to be among `draws` positives of the stream."""
        share = np.minimum(self.counts[rows] / self.total, 1 - 1e-12)
        chances: F32 = np.log(-np.expm1(draws * np.log1p(-share))).astype(np.float32)
        return chances

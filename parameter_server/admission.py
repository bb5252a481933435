"""Which ids may have a row: all, those seen often enough, or one sighting in so many. Knows no rows.

Pure: event time is passed in. One push counts an id once, however often it occurs there.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parameter_server.kernels import admission as kernels
from schema.config import AdmissionConfig
from schema.records import U8, U64

_FIRST_CELLS: Final = 1024
_MAX_LOAD: Final = 0.8
NEVER_AGED: Final = -1
_RANGE: Final = 2.0**64


class Admission:
    """Counts the ids that have no row yet, at most `config.candidates` of them.

    Args:
        config: the policy.
        seed: of the draws, for admission by probability.
    """

    def __init__(self, config: AdmissionConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._count = 0
        self.last_ageing = NEVER_AGED
        """Event time in milliseconds of the last ageing."""
        self._ids: U64
        self._counts: U8
        self._clear(_FIRST_CELLS if config.kind != "all" else 1)

    def __len__(self) -> int:
        return self._count

    def _clear(self, cells: int) -> None:
        self._ids, self._counts = np.zeros(cells, np.uint64), np.zeros(cells, np.uint8)

    def admit(self, ids: U64) -> NDArray[np.bool_]:
        """Count a sighting of each of the distinct `ids` (n,); which of them may have a row from now on."""
        if self._config.kind == "all":
            return np.ones(len(ids), np.bool_)
        totals = self._sight(ids)
        if self._config.kind == "count":
            admitted = totals >= self._config.threshold
        else:
            draws = np.empty(len(ids), np.uint64)
            kernels.draws(ids, totals, self._seed, draws)
            admitted = (draws < self._config.probability * _RANGE) | (totals == kernels.FULL)
        self._count -= kernels.forget(self._ids, self._counts, ids[admitted])
        return admitted

    def _sight(self, ids: U64) -> U8:
        totals = np.empty(len(ids), np.uint8)
        step = max(1, int(self._config.candidates * _MAX_LOAD) // 4)
        for start in range(0, len(ids), step):
            part = ids[start : start + step]
            self._make_room(len(part))
            seen = totals[start : start + step]
            self._count += kernels.sight(self._ids, self._counts, part, seen)
        return totals

    def _make_room(self, more: int) -> None:
        """Twice the cells while there may be more; from then on the counts age, and the lowest go."""
        while self._count + more > len(self._ids) * _MAX_LOAD:
            if len(self._ids) * _MAX_LOAD < self._config.candidates:
                self._copy(2 * len(self._ids), 0)
            else:
                self._copy(len(self._ids), 1)

    def _copy(self, cells: int, shift: int) -> None:
        ids, counts = self._ids, self._counts
        self._clear(cells)
        self._count = kernels.copy(ids, counts, self._ids, self._counts, shift)

    def age(self, event_time: int) -> None:
        """Halve all counts if `ageing_seconds` of event time (in milliseconds) have passed since the last."""
        if self.last_ageing == NEVER_AGED:
            self.last_ageing = event_time
        if event_time - self.last_ageing >= self._config.ageing_seconds * 1000:
            self.last_ageing = event_time
            self._copy(len(self._ids), 1)

    def count(self, wanted: int) -> int:
        """How often an id without a row has been seen."""
        counts = self._counts[(self._ids == np.uint64(wanted)) & (self._counts > 0)]
        return int(counts[0]) if len(counts) else 0

    def saved(self) -> tuple[U64, U8]:
        """The ids and counts of all candidates: what a checkpoint keeps."""
        held = self._counts > 0
        return self._ids[held], self._counts[held]

    def load(self, ids: U64, counts: NDArray[Any]) -> None:
        """Take up what `saved` returned."""
        cells = len(self._ids)
        while len(ids) > cells * _MAX_LOAD:
            cells *= 2
        self._clear(cells)
        wide = 1 << max(0, len(ids) - 1).bit_length()
        padded_ids, padded_counts = np.zeros(wide, np.uint64), np.zeros(wide, np.uint8)
        padded_ids[: len(ids)], padded_counts[: len(ids)] = ids, counts
        self._count = kernels.copy(padded_ids, padded_counts, self._ids, self._counts, 0)

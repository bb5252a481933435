"""The stream's side of EM: places what is new, scores paths as pairs come, and places all again now and then.

Pure: given the same weights and pairs in the same order it makes the same structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.retrieval.beam import search
from models.retrieval.changes import Changes, patched
from models.retrieval.em import PathScores, m_step
from models.retrieval.placement import best_free_paths, random_paths
from models.retrieval.structure import PathStructure, SavedStructure
from models.retrieval.weights import BeamWeights
from schema.config import RetrievalConfig
from schema.records import F32

I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

_ID_BYTES: Final = 8
_CELL_BYTES: Final = 4


class SavedLearner(msgspec.Struct, frozen=True, array_like=True):
    """A learner in a checkpoint; by row: `paths` <i4 (n, S), `scores` <f4 (n, S), `weights` <f4 (n,).

    These are of all rows; or of the rows `only` <i8 (n,), ascending, which changed since another checkpoint,
    and `width` is S.
    """

    structure: SavedStructure
    paths: bytes
    scores: bytes
    weights: bytes
    pairs: int
    only: bytes | None = None
    width: int = 0


def whole_learner(saved: Sequence[SavedLearner]) -> SavedLearner:
    """The last of `saved`, of all rows: the first is, each later one has what changed since the one before.

    Raises:
        ValueError: they do not go together.
    """
    last = saved[-1]
    if last.only is None:
        return last
    rows = len(last.structure.ids) // _ID_BYTES
    at = [None if s.only is None else np.frombuffer(s.only, "<i8") for s in saved]
    cells = _CELL_BYTES * last.width
    return SavedLearner(
        last.structure,
        patched([(a, s.paths) for a, s in zip(at, saved, strict=True)], rows, b"\xff" * cells),
        patched([(a, s.scores) for a, s in zip(at, saved, strict=True)], rows, bytes(cells)),
        patched([(a, s.weights) for a, s in zip(at, saved, strict=True)], rows, bytes(_CELL_BYTES)),
        last.pairs,
    )


class StructureLearner:
    """Owns the structure and the scores of its items.

    Args:
        config: sizes, the penalty, how scores decay, and how often items are placed.
        epoch: of the structure; see `PathStructure`.
    """

    def __init__(self, config: RetrievalConfig, epoch: int = 0) -> None:
        self._config = config
        self.structure = PathStructure(config.nodes**config.depth, config.paths, epoch)
        self.scores = PathScores.empty(0, config.scored_paths)
        self.changes = Changes()
        """Of the rows of scores; those that were never touched have none."""
        self._pairs = 0

    @property
    def placed_once(self) -> bool:
        """Whether there has been an M-step, so that the weights say something of where items belong."""
        return self._pairs >= self._config.placement_rows

    def paths(self, items: I64) -> I64:
        """The paths (m, J) of items (m,) for a structure loss; a new item is placed at random first."""
        new = np.unique(items[self.structure.rows_of(items) < 0])
        if len(new):
            config = self._config
            self._place(new, random_paths(new, self.structure.total_paths, config.paths, config.seed))
        return self.structure.paths_at(self.structure.rows_of(items)).astype(np.int64)

    def introduce(self, items: I64, likely_users: F32, weights: BeamWeights) -> None:
        """Place distinct new `items` (n,) by the mean vectors of their likely users (n, dim); others stay."""
        new = self.structure.rows_of(items) < 0
        if not new.any():
            return
        config, sizes = self._config, self.structure.sizes().copy()
        paths = best_free_paths(
            weights, likely_users[new], sizes, config.paths, config.score_beam, config.penalty
        )
        self._place(items[new], paths)

    def settle(self, items: I64, likely_users: F32, weights: BeamWeights) -> None:
        """Place distinct `items` (n,) anew, as `introduce` does, where no engagement has said where they go.

        Meant for those that were introduced when the weights knew less.
        """
        rows = self.structure.rows_of(items)
        lost = (rows >= 0) & (self.scores.weights[rows] == 0)
        if not lost.any():
            return
        config, sizes = self._config, self.structure.sizes().copy()
        old = self.structure.paths_at(rows[lost])
        np.subtract.at(sizes, old[old >= 0], 1)
        paths = best_free_paths(
            weights, likely_users[lost], sizes, config.paths, config.score_beam, config.penalty
        )
        self.structure.assign(items[lost], paths)

    def remove(self, items: I64) -> None:
        """Take items off the structure, and forget their scores."""
        rows = self.structure.rows_of(items)
        self.scores.forget(rows[rows >= 0])
        self.changes.touch(rows[rows >= 0])
        self.structure.remove(items)

    def score(self, weights: BeamWeights, vectors: F32, items: I64, users: I64) -> bool:
        """Count m engagements: items (m,), each by the user at its row `users` (m,) of `vectors` (n, dim).

        Returns:
            whether it is time for an M-step.
        """
        rows = self.structure.rows_of(items)
        beams = search(weights, vectors, self._config.score_beam)
        self.scores.update(rows, users, beams, self._config.score_decay)
        self.changes.touch(rows)
        before = self._pairs // self._config.placement_rows
        self._pairs += len(items)
        return self._pairs // self._config.placement_rows > before

    def place(self) -> int:
        """The M-step over all items; how many moved."""
        old, items = self.structure.assignments(), self.structure.item_ids()
        config, total = self._config, self.structure.total_paths
        placed = m_step(self.scores, old, total, config.penalty, config.sweeps)
        moved = np.flatnonzero((placed != old).any(axis=1))
        return self.structure.assign(items[moved], placed[moved])

    def saved(self, since: int | None = None) -> SavedLearner:
        """All there is, for `restore`; of scores only those that changed since the mark `since`, if given."""
        scores = self.scores
        only = None if since is None else self.changes.since(since)
        chosen = slice(None) if only is None else only
        return SavedLearner(
            self.structure.saved(),
            scores.paths[chosen].astype("<i4", copy=False).tobytes(),
            scores.scores[chosen].astype("<f4", copy=False).tobytes(),
            scores.weights[chosen].astype("<f4", copy=False).tobytes(),
            self._pairs,
            None if only is None else only.astype("<i8").tobytes(),
            0 if only is None else self._config.scored_paths,
        )

    def restore(self, saved: SavedLearner) -> None:
        """Be what `saved`, of all rows, was.

        Raises:
            StructureError: its structure has another number of paths.
        """
        kept = self._config.scored_paths
        self.structure.restore(saved.structure)
        self.scores = PathScores(
            np.frombuffer(saved.paths, "<i4").reshape(-1, kept).astype(np.int32),
            np.frombuffer(saved.scores, "<f4").reshape(-1, kept).astype(np.float32),
            np.frombuffer(saved.weights, "<f4").astype(np.float32),
        )
        self.changes = Changes()
        self._pairs = saved.pairs

    def _place(self, items: I64, paths: I32) -> None:
        self.structure.assign(items, paths)
        self.scores.grow(self.structure.rows)

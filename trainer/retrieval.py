"""Deep Retrieval learned in the stream, from the same batches as the ranker and in the same steps.

Owns the module, the structure, what is known of items, and how often they come. Knows no stream and no shard:
given the same batches and rows in the same order it becomes the same, bit for bit.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.dense import dump_payload
from models.retrieval.beam import search
from models.retrieval.frequency import ItemFrequencies, SavedFrequencies
from models.retrieval.items import Contents, SavedContents, whole_contents
from models.retrieval.learning import SavedLearner, StructureLearner, whole_learner
from models.retrieval.model import Candidates, DeepRetrieval, Pairs
from models.retrieval.shipping import Shipper
from models.retrieval.sightings import SavedSightings, Sightings
from models.retrieval.weights import BeamWeights
from schema.config import Config, RetrievalConfig
from schema.records import F32, I64, U64
from trainer.arrivals import Arrived
from trainer.engagements import EngagementReader, Wanted, wanted
from trainer.quest import Quest, SavedQuest
from trainer.rows import Rows

_FREQUENCY_DECAY: Final = 0.999
_MOST: Final = 1 - 1e-9


Mark = tuple[int, int]
"""A moment: what is said of the rows of scores and of contents after it can be told from what was before."""


class SavedRetrieval(msgspec.Struct, frozen=True, array_like=True):
    """All of it in a checkpoint; `module` as torch writes it. The optimizer is the trainer's."""

    module: bytes
    learner: SavedLearner
    contents: SavedContents
    frequencies: SavedFrequencies
    quest: SavedQuest
    sightings: SavedSightings = SavedSightings()

    @property
    def whole(self) -> bool:
        """Whether it is of all items, not only of those that changed since another checkpoint."""
        return self.learner.only is None and self.contents.only is None


def whole_retrieval(saved: Sequence[SavedRetrieval]) -> SavedRetrieval:
    """The last of `saved`, whole: the first is, each later one has what changed since the one before.

    Raises:
        ValueError: they do not go together.
    """
    learner = whole_learner([s.learner for s in saved])
    contents = whole_contents([s.contents for s in saved])
    return msgspec.structs.replace(saved[-1], learner=learner, contents=contents)


class Retrieval:
    """What the trainer holds of retrieval.

    Args:
        config: the whole configuration.
        retrieval: its section.
    """

    def __init__(self, config: Config, retrieval: RetrievalConfig) -> None:
        self._config = retrieval
        self.table = retrieval.table
        self._dim = next(t.dim for t in config.parameter_server.tables if t.name == self.table) - 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(retrieval.seed)
            self.module = DeepRetrieval(retrieval, self._dim)
        self.learner = StructureLearner(retrieval)
        self._contents = Contents()
        self._frequencies = ItemFrequencies(_FREQUENCY_DECAY)
        self._quest = Quest()
        self._sightings = Sightings(retrieval.item_expiry_seconds)
        self._reader = EngagementReader(config, retrieval)
        self._shipper = Shipper(self.learner.structure)
        self._said: dict[str, Any] = {}

    def prepare(self, rows: Rows, step: int, arrived: Arrived) -> Wanted:
        """What `step` needs for `rows`, and for new items."""
        read = self._reader.read(rows)
        if arrived.items:
            read = read.joined(arrived.item_ids(), arrived.feature_ids())
        return wanted(read, self._drawn(step), self.learner.structure, self._contents)

    def learn(self, batch: Wanted, rows: F32) -> tuple[U64, F32] | None:
        """Place and score the batch's items, and find the gradients; change no dense parameter.

        `rows` f32 (u, dim + 1) are those of `batch.parts.ids`. The dense gradients stay in the module. The
        sparse ones are of the loss summed over engagements; None without any, or if one is not finite.
        Items that have not been seen for too long are off the structure afterwards.
        """
        found = self._learn(batch, rows)
        self._forget_unseen()
        return found

    def _learn(self, batch: Wanted, rows: F32) -> tuple[U64, F32] | None:
        weights = self.module.export()
        self._place(batch, batch.parts.sums(rows), weights)
        self._said = self._standing()
        if not len(batch.users):
            return None
        table = torch.from_numpy(rows).requires_grad_()
        summed = _summed(table, batch.parts.places)
        users = self._users(batch, summed)
        self._count(batch, weights, users.detach().numpy())
        losses = self.module.losses(users, self._candidates(batch, summed), self._pairs(batch))
        losses.total().backward()  # type: ignore[no-untyped-call]
        gradient = table.grad
        if gradient is None or not self._finite(gradient):
            self.module.zero_grad()
            return None
        return batch.parts.ids, (gradient * len(batch.users)).numpy()

    def payloads(self) -> list[tuple[str, bytes]]:
        """What to publish beside the ranker, by name and in that order."""
        return self._shipper.payloads(dump_payload(self.module))

    def report(self) -> dict[str, Any]:
        """How well it finds, and how the structure stood at the last step. From any thread."""
        return self._said | self._quest.report()

    def mark(self) -> Mark:
        """Now, for `saved` later."""
        return self.learner.changes.mark(), self._contents.changes.mark()

    def saved(self, since: Mark | None = None) -> SavedRetrieval:
        """All there is, for `restore`; of single items only what changed since `since`, if given."""
        scores, contents = (None, None) if since is None else since
        blob = io.BytesIO()
        torch.save(self.module.state_dict(), blob)
        return SavedRetrieval(
            blob.getvalue(),
            self.learner.saved(scores),
            self._contents.saved(contents),
            self._frequencies.saved(),
            self._quest.saved(),
            self._sightings.saved(),
        )

    def restore(self, saved: SavedRetrieval) -> None:
        """Be what `saved`, a whole one, was.

        Raises:
            StructureError: its structure has another number of paths.
            RuntimeError: its module has other sizes.
        """
        self.module.load_state_dict(torch.load(io.BytesIO(saved.module), weights_only=True))
        self.learner.restore(saved.learner)
        self._contents.restore(saved.contents)
        self._frequencies.restore(saved.frequencies)
        self._quest.restore(saved.quest)
        self._sightings.restore(saved.sightings)
        self._shipper.forget()

    def _standing(self) -> dict[str, Any]:
        structure = self.learner.structure
        largest = int(structure.sizes().max())
        return {"items": len(structure), "version": structure.version, "largest_path": largest}

    def _drawn(self, step: int) -> I64:
        """The items that `step` draws evenly from the structure."""
        structure = self.learner.structure
        if not structure.rows:
            return np.empty(0, np.int64)
        rng = np.random.default_rng([self._config.seed, step])
        items = structure.items_at(rng.integers(0, structure.rows, self._config.negatives))
        return np.unique(items[items >= 0])

    def _place(self, batch: Wanted, sums: F32, weights: BeamWeights) -> None:
        """Have all items on the structure, and those that nothing is known of where their likely users look.

        A likely user of an item is one whose history is that item. Before the first M-step the weights know
        nothing, and chance is as good.
        """
        learner, new = self.learner, batch.items[batch.new]
        drawn = batch.items[batch.drawn]
        if learner.placed_once:
            tower, vectors = self.module.tower.export(), sums[:, : self._dim]
            for items, places, put in (
                (new, np.flatnonzero(batch.new), learner.introduce),
                (drawn, batch.drawn, learner.settle),
            ):
                if len(items):
                    put(items, tower.users(vectors[places], np.arange(len(items))), weights)
        else:
            learner.paths(new)
        shown = learner.structure.rows_of(batch.shown)
        self._contents.put(shown, batch.contents)
        self._sightings.note(shown, learner.structure.rows, batch.event_time)

    def _forget_unseen(self) -> None:
        """Take the items off the structure that nobody has been shown for too long."""
        rows = self._sightings.expired()
        items = self.learner.structure.items_at(rows)
        here = items >= 0
        self.learner.remove(items[here])
        self._frequencies.forget(rows[here])

    def _users(self, batch: Wanted, summed: Tensor) -> Tensor:
        vectors = summed[:, : self._dim]
        own = None if batch.own is None else vectors[torch.from_numpy(batch.own)]
        history = vectors[torch.from_numpy(batch.history)]
        return self.module.users(history, torch.from_numpy(batch.starts), own)

    def _count(self, batch: Wanted, weights: BeamWeights, users: F32) -> None:
        """See how well the engaged items are found, count them, and let them say where they belong."""
        structure, items = self.learner.structure, batch.engaged
        rows = structure.rows_of(items)
        sizes = structure.sizes()
        self._frequencies.grow(structure.rows)
        beams = search(weights, users, self._config.beam)
        self._quest.count(beams, batch.users, structure.paths_at(rows), sizes, self._frequencies.ranks(rows))
        self._frequencies.count(rows)
        if self.learner.score(weights, users, items, batch.users):
            self.learner.place()

    def _candidates(self, batch: Wanted, summed: Tensor) -> Candidates:
        structure = self.learner.structure
        rows = structure.rows_of(batch.items[batch.candidates])
        even = min(-np.expm1(self._config.negatives * np.log1p(-1 / (structure.rows + 1))), _MOST)
        log_q = self._frequencies.log_inclusion(rows, len(batch.users), even)
        chosen = summed[torch.from_numpy(batch.candidates)]
        return Candidates(chosen[:, : self._dim], chosen[:, self._dim], torch.from_numpy(log_q))

    def _pairs(self, batch: Wanted) -> Pairs:
        paths = torch.from_numpy(self.learner.paths(batch.engaged))
        return Pairs(torch.from_numpy(batch.users), torch.from_numpy(batch.positives), paths)

    def _finite(self, gradient: Tensor) -> bool:
        dense = [p.grad for p in self.module.parameters() if p.grad is not None]
        return bool(torch.isfinite(torch.nn.utils.get_total_norm([*dense, gradient])))


def _summed(table: Tensor, places: I64) -> Tensor:
    """The sums (n, d) of the rows of `table` (u, d) at `places` (n, w), u for none."""
    padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
    return functional.embedding_bag(torch.from_numpy(places), padded, mode="sum", padding_idx=len(table))

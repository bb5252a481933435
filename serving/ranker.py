"""Scores candidates with the parameters served now. Knows no request, no topic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from prometheus_client import Counter
from torch import Tensor

from models.batch import Batch, Collator
from models.heads import Heads
from models.mmoe import MMoE
from schema.config import Config
from schema.records import F32, I64, Features, ModelVersion
from serving.parameters import Parameters, Reading

_log = logging.getLogger(__name__)

_NOT_FINITE: Final = Counter(
    "headwater_scores_not_finite", "Rankings whose scores were not finite, answered without them."
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of n candidates: `tasks` f32 (n, tasks) and their weighted sum `final` f32 (n,).

    Both are None where no model could rank them. `reading` is what they were ranked with, and `batch` what it
    was read for.
    """

    version: ModelVersion
    tasks: F32 | None = None
    final: F32 | None = None
    reading: Reading | None = None
    batch: Batch | None = None


class Ranker:
    """final = sum over tasks of weight * served probability, wherever the items will be shown."""

    def __init__(self, config: Config, parameters: Parameters) -> None:
        self._collator = Collator(config.features)
        self._heads = Heads.of(config)
        self._weights = np.array([task.weight for task in config.tasks], np.float32)
        self._parameters = parameters

    def rank(self, features: Features, count: int) -> Ranking:
        """The scores of the `count` candidates that `features` describe."""
        batch = self._collator.collate([features], [count])
        reading = self._parameters.read(batch.ids)
        if reading.model is None:
            return Ranking(ModelVersion(0, reading.version.shards))
        tasks = scores(self._heads, reading.model, batch, reading.embeddings)
        if not np.isfinite(tasks).all():
            _NOT_FINITE.inc()
            _log.error("the scores by dense version %d are not finite", reading.version.dense)
            return Ranking(ModelVersion(0, reading.version.shards))
        return Ranking(reading.version, tasks, tasks @ self._weights, reading, batch)

    def rescored(self, ranking: Ranking, chosen: I64) -> F32 | None:
        """The scores of the candidates that are shown, by index, for the log; None if none were ranked.

        Computed anew of them alone, with the parameters that ranked, so that whoever has the log and these
        parameters gets the same bits: a product's last ones depend on how many rows it is taken of.
        """
        reading, batch = ranking.reading, ranking.batch
        if reading is None or reading.model is None or batch is None:
            return None
        return scores(self._heads, reading.model, batch.narrowed(chosen), reading.embeddings)


def scores(heads: Heads, model: MMoE, batch: Batch, embeddings: Mapping[str, Tensor]) -> F32:
    """The probability of every task for every row of `batch`, f32 (n, tasks)."""
    with torch.inference_mode():
        found: F32 = heads.served(model(batch, embeddings)).numpy()
    return found

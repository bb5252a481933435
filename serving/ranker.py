"""Scores candidates with the parameters served now. Knows no request, no topic."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from prometheus_client import Counter

from models.batch import Collator
from models.heads import Heads
from schema.config import Config
from schema.records import F32, Features, ModelVersion
from serving.parameters import Parameters

_log = logging.getLogger(__name__)

_NOT_FINITE: Final = Counter(
    "headwater_scores_not_finite", "Rankings whose scores were not finite, answered without them."
)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Scores of n candidates: `tasks` f32 (n, tasks) and their weighted sum `final` f32 (n,).

    Both are None where no model could rank them.
    """

    version: ModelVersion
    tasks: F32 | None = None
    final: F32 | None = None


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
        with torch.inference_mode():
            tasks: F32 = self._heads.served(reading.model(batch, reading.embeddings)).numpy()
        if not np.isfinite(tasks).all():
            _NOT_FINITE.inc()
            _log.error("the scores by dense version %d are not finite", reading.version.dense)
            return Ranking(ModelVersion(0, reading.version.shards))
        return Ranking(reading.version, tasks, tasks @ self._weights)

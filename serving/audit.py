"""The skew audit: samples served requests, reads them back from their logs, and scores them again.

What is trained on is the log, so a log that does not give the very scores that were served is a bug. The last
sampled requests stay, with the parameters that scored them, to be explained.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

import numpy as np
import torch
from prometheus_client import Counter
from torch import Tensor

from models.batch import Collator
from models.heads import Heads
from models.mmoe import MMoE
from runtime.logs import about
from schema.codec import FEATURE_LOGS
from schema.config import Config
from schema.records import F32, U64, FeatureLog
from serving.parameters import Parameters
from serving.ranker import Ranking, scores
from serving.telling import Teller

_log = logging.getLogger(__name__)

KEPT: Final = 512
SHARE: Final = 1 / 16
_MATCHED: Final = Counter("headwater_audit_matched", "Sampled requests whose log gives the scores served.")
_MISMATCHED: Final = Counter("headwater_audit_mismatched", "Sampled requests whose log gives other scores.")


@dataclass(frozen=True, slots=True)
class Sampled:
    """A request as it was logged, and what scored it: the model, and rows by table for ids in order."""

    message: bytes
    model: MMoE
    ids: Mapping[str, U64]
    rows: Mapping[str, Tensor]

    def log(self) -> FeatureLog:
        """The log, read back from its bytes."""
        (record,) = FEATURE_LOGS.decode(self.message)
        assert isinstance(record, FeatureLog)  # noqa: S101 - `Audit.note` wrote it
        return record


class Audit:
    """Samples one in 1 / `share` requests that a model ranked. Safe to use from any thread."""

    def __init__(self, config: Config, share: float = SHARE, kept: int = KEPT) -> None:
        self._collator = Collator(config.features)
        self._teller = Teller(config)
        self._heads = Heads.of(config)
        self._below = int(share * (1 << 32))
        self._kept = kept
        self._sampled: OrderedDict[str, Sampled] = OrderedDict()
        self._waiting: SimpleQueue[Sampled | None] = SimpleQueue()
        self.matched = self.mismatched = 0
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)

    def start(self) -> None:
        """Begin to audit."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Audit what waits, within `timeout` seconds."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    def note(self, log: FeatureLog, ranking: Ranking) -> None:
        """Sample a served request, maybe: by its id, which is random."""
        reading, batch = ranking.reading, ranking.batch
        if reading is None or reading.model is None or batch is None:
            return
        if int(log.request_id[:8], 16) >= self._below:
            return
        sampled = Sampled(FEATURE_LOGS.encode([log]), reading.model, batch.ids, reading.embeddings)
        self._sampled[log.request_id] = sampled
        while len(self._sampled) > self._kept:
            self._sampled.popitem(last=False)
        self._waiting.put(sampled)

    def explain(self, request_id: str) -> dict[str, Any] | None:
        """What `serving.telling` says of a request, its scores computed again; None if it is not kept."""
        sampled = self._sampled.get(request_id)
        if sampled is None:
            return None
        log = sampled.log()
        return self._teller.tell(log, self._again(sampled, log))

    def explain_log(self, log: FeatureLog, parameters: Parameters) -> dict[str, Any]:
        """As `explain`, of any log: scored again where `parameters` are those that scored it.

        Raises:
            ValueError: the log is not of the configured features and tasks.
        """
        batch = self._collator.collate([log.features], [len(log)])
        reading = parameters.read(batch.ids)
        again = None
        if reading.model is not None and reading.version == log.model and log.scores:
            again = scores(self._heads, reading.model, batch, reading.embeddings)
        return self._teller.tell(log, again)

    def _again(self, sampled: Sampled, log: FeatureLog) -> F32:
        batch = self._collator.collate([log.features], [len(log)])
        rows = {t: sampled.rows[t][_places(sampled.ids[t], ids)] for t, ids in batch.ids.items()}
        return scores(self._heads, sampled.model, batch, rows)

    def _run(self) -> None:
        while (sampled := self._waiting.get()) is not None:
            log = sampled.log()
            if self._again(sampled, log).tobytes() == log.scores:
                self.matched += 1
                _MATCHED.inc()
            else:
                self.mismatched += 1
                _MISMATCHED.inc()
                with about(request_id=log.request_id):
                    _log.error("its log does not give the scores that were served")


def _places(ids: U64, wanted: U64) -> Tensor:
    """Where each of `wanted` (n,) is among the distinct `ids` (u,), which have all of them."""
    order = np.argsort(ids)
    return torch.from_numpy(order[np.searchsorted(ids, wanted, sorter=order)])

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
from schema.codec import FEATURE_LOGS
from schema.config import Config
from schema.ids import VALUE_LIMIT
from schema.records import F32, U64, FeatureLog
from serving.ranker import Ranking, scores

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
        self._names = {slot.slot: slot.name for slot in config.features.slots}
        self._heads = Heads.of(config)
        self._tasks = [task.name for task in config.tasks]
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
        """What each slot of a request held, what scored it, and its scores again; None if it is not kept."""
        sampled = self._sampled.get(request_id)
        if sampled is None:
            return None
        log = sampled.log()
        again = self._again(sampled, log)
        return {
            "request_id": log.request_id,
            "user_id": log.user_id,
            "event_time": log.event_time,
            "model": {"dense": log.model.dense, "shards": log.model.shards},
            "context": {
                self._names.get(c.slot, str(c.slot)): _values(c.values()) for c in log.features.context
            },
            "items": self._items(log, again),
            "same_bits": again.tobytes() == log.scores,
        }

    def _items(self, log: FeatureLog, again: F32) -> list[dict[str, Any]]:
        served = np.frombuffer(log.scores, "<f4").reshape(len(log), -1)
        propensities = np.frombuffer(log.propensities, "<f4").tolist() or [None] * len(log)
        columns = {}
        for column in log.features.items:
            ends = np.cumsum(column.row_lengths(len(log)))[:-1]
            columns[self._name(column.slot)] = np.split(column.values(), ends)
        return [
            {
                "item_id": item,
                "propensity": propensities[row],
                "slots": {name: _values(rows[row]) for name, rows in columns.items()},
                "served": dict(zip(self._tasks, served[row].tolist(), strict=True)),
                "again": dict(zip(self._tasks, again[row].tolist(), strict=True)),
            }
            for row, item in enumerate(log.item_ids().tolist())
        ]

    def _name(self, slot: int) -> str:
        return self._names.get(slot, str(slot))

    def _again(self, sampled: Sampled, log: FeatureLog) -> F32:
        batch = self._collator.collate([log.features], [len(log)])
        places = {t: torch.from_numpy(np.searchsorted(sampled.ids[t], ids)) for t, ids in batch.ids.items()}
        rows = {t: sampled.rows[t][at] for t, at in places.items()}
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
                _log.error("request %s: its log does not give the scores that were served", log.request_id)


def _values(ids: U64) -> list[int]:
    return [int(feature) % VALUE_LIMIT for feature in ids.tolist()]

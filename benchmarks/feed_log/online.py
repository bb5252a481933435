"""The online ranker over a feed log, in one process: it scores every request before its labels are known.

A batch is scored with parameters that have learned only from requests whose labels were known, LABEL_DELAY_MS
after they were made, when the batch's first request came. Steps and tables are those of the trainer and the
parameter server, without the network between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
import torch

from feed_log.rows import LABEL_DELAY_MS, FeedLog, Request
from parameter_server.shard import Shard
from schema.config import Config, DenseConfig, SlotConfig
from schema.records import F32, U64, Features, IdColumn, column
from trainer.pieces import Piece, PieceRows
from trainer.step import Learner

_ATTENTION_SLOT: Final = 100


def configured(config: Config, names: tuple[str, ...], *, attention: bool = True) -> Config:
    """`config` with the counters `names` as dense values, and, if so wanted, attention over every history."""
    features = config.features
    attending = tuple(
        SlotConfig(
            name=f"{s.name}_for_item",
            slot=_ATTENTION_SLOT + s.slot,
            source=s.source,
            pool="attention",
            ids_of=s.ids_of or "video",
            table=s.table,
        )
        for s in features.slots
        if attention and s.source.startswith("history.")
    )
    dense = tuple(DenseConfig(name=name, source=f"item.{name}") for name in names)
    wider = msgspec.structs.replace(features, slots=features.slots + attending, dense=features.dense + dense)
    return msgspec.structs.replace(config, features=wider)


class _Tables:
    """The trainer's view of one shard in this process."""

    def __init__(self, config: Config) -> None:
        self.shard = Shard(config.parameter_server, 0)

    def pull(self, table: str, ids: U64) -> F32:
        """See ParameterClient.pull."""
        return self.shard.pull([(table, ids)])[0]


class OnlineRanker:
    """Learns from a feed log as it goes.

    Args:
        config: as `configured` made it.
        feed: the log.
    """

    def __init__(self, config: Config, feed: FeedLog) -> None:
        torch.set_num_threads(1)
        self._tables = _Tables(config)
        self._learner = Learner(config, self._tables)
        self._rows = config.trainer.batch_rows
        self._feed = feed
        self._histories = {
            s.slot - _ATTENTION_SLOT: s.slot for s in config.features.slots if s.pool == "attention"
        }
        self._steps = 0

    def run(self, progress: Callable[[int], None]) -> F32:
        """Predictions (n, T), each made before its own label was known."""
        requests = self._feed.requests
        pieces = [self._piece(request) for request in requests]
        known_at = np.array([r.log.event_time for r in requests]) + LABEL_DELAY_MS
        predictions = np.zeros_like(self._feed.labels)
        trained = 0
        for start in range(0, len(requests), self._rows):
            stop = min(start + self._rows, len(requests))
            until = int(np.searchsorted(known_at, requests[start].log.event_time))
            while trained + self._rows <= until:
                self._train(pieces[trained : trained + self._rows])
                trained += self._rows
            scored = self._score(pieces[start:stop])
            predictions[np.concatenate([r.rows for r in requests[start:stop]])] = scored
            progress(stop)
        return predictions

    def _score(self, pieces: list[Piece]) -> F32:
        prepared = self._learner.prepare(PieceRows(pieces))
        vectors = {table: torch.from_numpy(v) for table, v in self._learner.pull(prepared).items()}
        with torch.inference_mode():
            scores: F32 = self._learner.heads.served(self._learner.model(prepared.batch, vectors)).numpy()
        return scores

    def _train(self, pieces: list[Piece]) -> None:
        self._steps += 1
        computed = self._learner.compute(self._learner.fetch(PieceRows(pieces)), self._steps)
        if computed.gradients is None:
            raise ArithmeticError(f"step {self._steps}: the gradients are not finite")
        self._tables.shard.push("online", self._steps, computed.gradients, pieces[-1].event_time)
        self._learner.apply(sum(map(len, pieces)))

    def _piece(self, request: Request) -> Piece:
        log, rows = request.log, request.rows
        labels = self._feed.labels[rows]
        return Piece(
            log.user_id,
            log.surface,
            log.event_time,
            log.event_time,
            log.items,
            log.positions,
            self._features(log.features, rows),
            column(labels, "<f4"),
            bytes([1]) * labels.size,
            bytes(4 * len(rows)),
        )

    def _features(self, features: Features, rows: np.ndarray) -> Features:
        own = np.frombuffer(features.item_dense, "<f4").reshape(len(rows), -1)
        dense = np.concatenate([own, self._feed.known[rows]], axis=1).astype("<f4")
        again = [
            IdColumn(self._histories[c.slot], c.ids, c.lengths)
            for c in features.context
            if c.slot in self._histories
        ]
        return Features((*features.context, *again), features.items, features.context_dense, dense.tobytes())

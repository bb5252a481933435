"""Small configurations, sample blocks and streams of them for the trainer's tests."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schema.config import Config
from schema.config_file import parse_config
from schema.ids import feature_id
from schema.records import Features, IdColumn, SampleBlock, Source, column
from trainer.columns.layout import Form
from trainer.columns.scan import encoded
from trainer.entries import Entry, Position

TASKS = ("click", "like")
DIM = 4


RETRIEVAL: dict[str, Any] = {
    "history": "seen",
    "nodes": 4,
    "paths": 2,
    "beam": 4,
    "hidden": 4,
    "negatives": 3,
    "scored_paths": 8,
    "score_beam": 16,
    "placement_rows": 10,
}


def config(run_dir: Path | str = "run", *, retrieval: dict[str, Any] | None = None, **trainer: Any) -> Config:
    return parse_config(
        {
            **({} if retrieval is None else {"retrieval": retrieval}),
            "run_dir": str(run_dir),
            "features": {
                "slots": [
                    {"name": "user", "slot": 1, "source": "user.id"},
                    {"name": "video", "slot": 2, "source": "item.id"},
                    {"name": "seen", "slot": 3, "source": "history.seen", "ids_of": "video"},
                ],
                "histories": [{"name": "seen", "actions": ["exposed"]}],
                "dense": [{"name": "duration", "source": "item.duration"}],
            },
            "tasks": [{"name": name, "actions": [name]} for name in TASKS],
            "parameter_server": {
                "shards": [{"port": 1, "ops_port": 2}, {"port": 3, "ops_port": 4}],
                "tables": [{"name": "embedding", "dim": DIM}, {"name": "retrieval", "dim": DIM}],
            },
            "model": {"experts": 2, "expert_hidden": [6], "head_hidden": []},
            "serving": {"replicas": [{"port": 5}]},
            "kafka": {
                "topics": {
                    name: {"name": name, "partitions": 2}
                    for name in ("feature_logs", "user_actions", "training_samples")
                }
            },
            "trainer": {"batch_rows": 6, **trainer},
        }
    )


def block(
    offset: int,
    rows: Sequence[int] = (0, 1, 2),
    mask: Sequence[Sequence[int]] | None = None,
    *,
    partition: int = 0,
    index: int = 0,
    resolved_below: int = 0,
    user: int = 7,
    event_time: int = 1_000_000,
    tasks: Sequence[str] = TASKS,
    seed: int = 0,
) -> SampleBlock:
    """Rows of one request; items, labels and dense values are functions of the place and `seed`.

    Of two requests in three it is known how likely each row had to be shown, a function of its place.
    """
    n, rng = len(rows), np.random.default_rng([partition, offset, index, seed])
    items = np.array([10 + (offset + row) % 9 for row in rows])
    history = [feature_id(2, int(i)) for i in rng.integers(10, 19, rng.integers(0, 4))]
    return SampleBlock(
        source=Source(partition, offset, index),
        resolved_below=resolved_below,
        completed_at=event_time + 5,
        request_id=f"{partition}-{offset}-{index}",
        user_id=user,
        event_time=event_time,
        surface=offset % 2,
        tasks=tuple(tasks),
        rows=column(rows, "<u2"),
        items=column(items, "<i8"),
        positions=column(rows, "<u2"),
        features=Features(
            context=(
                IdColumn(1, column([feature_id(1, user)], "<u8")),
                IdColumn(3, column(history, "<u8"), column([len(history)], "<u2")),
            ),
            items=(IdColumn(2, column([feature_id(2, int(i)) for i in items], "<u8")),),
            item_dense=column(rng.normal(size=n), "<f4"),
        ),
        labels=column(rng.integers(0, 2, (n, len(tasks))), "<f4"),
        mask=column(np.ones((n, len(tasks))) if mask is None else mask, "u1"),
        log_keep=column(np.zeros(n), "<f4"),
        propensities=column([0.5 ** ((offset + row) % 6) for row in rows] if offset % 3 else [], "<f4"),
    )


FORM = Form.of(config().features, TASKS)


def records(entries: Iterable[Entry]) -> list[SampleBlock]:
    """All blocks of `entries`."""
    blocks = [entry.blocks for entry in entries if entry.blocks is not None]
    return [found.block(i) for found in blocks for i in range(len(found))]


def entry(offset: int, *blocks: SampleBlock, partition: int = 0) -> Entry:
    """A message of `blocks`."""
    return Entry(partition, Position(offset), Position(offset + 1), encoded(FORM, blocks))


class JoinerModel:
    """Emits blocks for the logs of one partition as the joiner promises to, restarts included.

    Every pair of a log leaves once in an incarnation; a restart begins again at an offset below which
    all had left; `resolved_below` is the first offset of the incarnation that is not wholly out yet.
    """

    def __init__(self, seed: int, logs: int, partition: int = 0) -> None:
        self._random = random.Random(seed)
        self._partition = partition
        self._impressions = [self._random.randint(1, 3) for _ in range(logs)]
        self._committed = 0

    def emit(self, crashes: int) -> list[SampleBlock]:
        """Everything at least once, with `crashes` restarts on the way."""
        blocks: list[SampleBlock] = []
        for _ in range(crashes):
            blocks += self._incarnation(stop_after=self._random.randint(0, 2 * len(self._impressions)))
        return blocks + self._incarnation(None)

    def _incarnation(self, stop_after: int | None) -> list[SampleBlock]:
        start = self._committed
        left = {
            offset: [(row, task) for row in range(self._impressions[offset]) for task in range(len(TASKS))]
            for offset in range(start, len(self._impressions))
        }
        blocks = []
        while left and len(blocks) != stop_after:
            frontier = min(left)
            offset = self._random.choice(sorted(left)[:4])
            pairs = self._take(left[offset])
            blocks.append(self._block(offset, pairs, frontier))
            if not left[offset]:
                del left[offset]
        frontier = min(left, default=len(self._impressions))
        # what is acknowledged lags behind what is resolved
        self._committed = self._random.randint(start, frontier)
        return blocks

    def _take(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        if self._random.random() < 0.5:
            taken, pairs[:] = list(pairs), []
            return taken
        self._random.shuffle(pairs)
        return [pairs.pop() for _ in range(self._random.randint(1, len(pairs)))]

    def _block(self, offset: int, pairs: list[tuple[int, int]], frontier: int) -> SampleBlock:
        rows = sorted({row for row, _ in pairs})
        mask = [[int((row, task) in pairs) for task in range(len(TASKS))] for row in rows]
        return block(
            offset,
            rows,
            mask,
            partition=self._partition,
            resolved_below=frontier,
            user=100 * self._partition + offset % 5,
            event_time=1_000_000 + 1000 * offset,
        )


def pairs_of(sample: SampleBlock) -> set[tuple[int, int, int, int, int]]:
    """The (partition, offset, index, row, task) pairs that a block speaks for."""
    source, mask = sample.source, sample.mask_matrix()
    return {
        (source.partition, source.offset, source.index, int(row), task)
        for i, row in enumerate(sample.row_indices())
        for task in range(mask.shape[1])
        if mask[i, task]
    }

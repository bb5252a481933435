"""Sample messages of a feed: Zipf users and items, histories of 50.

One impression a request unless told otherwise: in KuaiRand a request has 1.016, and each costs a history.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schema.codec import TRAINING_SAMPLES
from schema.config import Config, SlotConfig
from schema.ids import VALUE_BITS
from schema.records import I64, U64, Features, IdColumn, SampleBlock, Source, column

_BLOCKS_A_MESSAGE: Final = 16
_HISTORY: Final = 50
_PROFILE: Final = 26
_KINDS: Final = {"user.id": 200_000, "item.id": 50_000, "item.author": 20_000, "item.tag": 60, "item.type": 3}


class Samples:
    """Messages for `config`'s slots with `impressions` rows a request, a function of `seed`."""

    def __init__(self, config: Config, impressions: int, seed: int) -> None:
        self._impressions = impressions
        self._config = config
        self._rng = np.random.default_rng(seed)
        numbers = {s.name: s.slot for s in config.features.slots}
        self._slot_of = {s.name: numbers[s.ids_of or s.name] for s in config.features.slots}
        self._tasks = tuple(task.name for task in config.tasks)
        self._offset = 0

    def messages(self, rows: int) -> list[bytes]:
        """So many envelopes as hold at least `rows` rows."""
        return [self._message() for _ in range(-(-rows // (self._impressions * _BLOCKS_A_MESSAGE)))]

    def _message(self) -> bytes:
        blocks = [self._block(index) for index in range(_BLOCKS_A_MESSAGE)]
        self._offset += 1
        return TRAINING_SAMPLES.encode(blocks)

    def _block(self, index: int) -> SampleBlock:
        rng, n, tasks = self._rng, self._impressions, len(self._tasks)
        slots = self._config.features.slots
        labels = (rng.random((n, tasks)) < 0.2).astype("<f4")
        return SampleBlock(
            source=Source(0, self._offset, index),
            resolved_below=self._offset,
            completed_at=1_000_000 + self._offset,
            request_id=f"{self._offset}-{index}",
            user_id=int(rng.integers(1 << 40)),
            event_time=1_000_000 + self._offset,
            surface=0,
            tasks=self._tasks,
            rows=column(range(n), "<u2"),
            items=column(rng.integers(0, 1 << 40, n), "<i8"),
            positions=column(range(n), "<u2"),
            features=Features(
                context=tuple(self._column(s, 1) for s in slots if not s.source.startswith("item.")),
                items=tuple(self._column(s, n) for s in slots if s.source.startswith("item.")),
                item_dense=column(rng.normal(size=n), "<f4"),
            ),
            labels=labels.tobytes(),
            mask=column(np.ones((n, tasks)), "u1"),
            log_keep=column(np.zeros(n), "<f4"),
        )

    def _column(self, slot: SlotConfig, rows: int) -> IdColumn:
        history = slot.source.startswith("history.")
        several = _HISTORY if history else _PROFILE if slot.source == "user.profile" else 0
        ids = self._ids(slot, rows * max(1, several))
        if not several:
            return IdColumn(slot.slot, column(ids, "<u8"))
        return IdColumn(slot.slot, column(ids, "<u8"), column([several] * rows, "<u2"))

    def _ids(self, slot: SlotConfig, count: int) -> U64:
        source = "item.id" if slot.source.startswith("history.") else slot.source
        values = _zipf(self._rng, _KINDS.get(source, 100), count)
        return (values + (self._slot_of[slot.name] << VALUE_BITS)).astype(np.uint64)


def _zipf(rng: np.random.Generator, kinds: int, count: int) -> I64:
    """Ranks with odds about 1 / rank."""
    drawn: NDArray[np.float64] = kinds ** rng.random(count)
    return drawn.astype(np.int64)

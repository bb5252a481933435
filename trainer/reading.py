"""Batches read and made ready in a thread of its own, one ahead of the one that is asked for.

What a batch holds is the feed's and does not hang on when it is read; the filter of duplicates, which a
recovery point looks into meanwhile, guards itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple

from trainer.batches import Batcher, RowBatch
from trainer.journal import StepRecord
from trainer.rows import Rows
from trainer.step import Prepared


class Ready(NamedTuple):
    """A batch, and its rows as tensors, None where it has none."""

    batch: RowBatch
    prepared: Prepared | None


class Reading:
    """The batches of a batcher, the next one being read while one is trained.

    Args:
        batcher: asked by one thread at a time.
        prepare: makes rows into tensors; runs beside the training.
        executor: where batches are read, in order; a thread of its own unless given.
    """

    def __init__(
        self, batcher: Batcher, prepare: Callable[[Rows], Prepared], executor: Executor | None = None
    ) -> None:
        self._batcher, self._prepare = batcher, prepare
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="reading")
        self._next: Future[Ready | None] | None = None

    @property
    def paused(self) -> bool:
        """Whether there was nothing more to be read, and all that was has been handed out."""
        return self._next is None and self._batcher.paused

    def next(self) -> Ready | None:
        """The next batch, see `Batcher.next`; the one after it is begun."""
        ready = self._submitted().result()
        self._next = None
        if ready is not None:
            self._submitted()
        return ready

    def _submitted(self) -> Future[Ready | None]:
        if self._next is None:
            self._next = self._executor.submit(self._read)
        return self._next

    def _read(self) -> Ready | None:
        batch = self._batcher.next()
        return None if batch is None else self._ready(batch)

    def _ready(self, batch: RowBatch) -> Ready:
        return Ready(batch, self._prepare(batch.columns()) if batch.rows else None)

    def again(self, records: Iterable[StepRecord], timeout: float) -> Iterator[tuple[StepRecord, Ready]]:
        """The batches of `records`, made anew, each with its record; see `Batcher.again`."""
        ahead: deque[tuple[StepRecord, Future[Ready]]] = deque()
        for record in records:
            ahead.append((record, self._executor.submit(self._read_again, record, timeout)))
            if len(ahead) > 1:
                before, ready = ahead.popleft()
                yield before, ready.result()
        for record, ready in ahead:
            yield record, ready.result()

    def _read_again(self, record: StepRecord, timeout: float) -> Ready:
        return self._ready(self._batcher.again(record.runs, timeout))

    def close(self) -> None:
        """End the thread; a batch that is being read is finished first, and dropped."""
        self._executor.shutdown(cancel_futures=True)

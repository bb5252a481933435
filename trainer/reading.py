"""Batches read and made ready in a thread of its own, one ahead of the one that is asked for.

What a batch holds is the feed's and does not hang on when it is read; the filter of duplicates, which a
recovery point looks into meanwhile, guards itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from trainer.batches import Batcher, RowBatch
from trainer.entries import Run
from trainer.rows import Rows
from trainer.step import Prepared

T = TypeVar("T")


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

    def again(self, batches: Iterable[tuple[T, Iterable[Run]]], timeout: float) -> Iterator[tuple[T, Ready]]:
        """The batches that read these runs, each with what names it; see `Batcher.again`."""
        ahead: tuple[T, Future[Ready]] | None = None
        for name, runs in batches:
            before, ahead = ahead, (name, self._executor.submit(self._read_again, tuple(runs), timeout))
            if before is not None:
                yield before[0], before[1].result()
        if ahead is not None:
            yield ahead[0], ahead[1].result()

    def _read_again(self, runs: tuple[Run, ...], timeout: float) -> Ready:
        return self._ready(self._batcher.again(runs, timeout))

    def close(self) -> None:
        """End the thread; a batch that is being read is finished first, and dropped."""
        self._executor.shutdown(cancel_futures=True)

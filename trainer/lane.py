"""One thread that asks the shards, in the order it is told to, while another computes.

The order is the staleness: vectors asked for before a push is handed in do not see it, those asked for after
it do, whatever the timing.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Lane:
    """Does jobs one after the other.

    Args:
        executor: runs them, in order; a thread of its own unless given.
    """

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="lane")
        self._push: Future[Any] | None = None

    def fetch(self, job: Callable[[], T]) -> Future[T]:
        """Do `job` after all that was handed in before."""
        return self._executor.submit(job)

    def push(self, job: Callable[[], T]) -> Future[T]:
        """As `fetch`, for a job that pushes; waits for the last one of these: at most one is open.

        Raises:
            whatever the last one has.
        """
        self.settle()
        self._push = pushed = self._executor.submit(job)
        return pushed

    def settle(self) -> None:
        """Wait until every push has been applied.

        Raises:
            whatever the last one has.
        """
        push, self._push = self._push, None
        if push is not None:
            push.result()

    def close(self) -> None:
        """End the thread; a job under way is finished first."""
        self._executor.shutdown(cancel_futures=True)

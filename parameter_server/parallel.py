"""One job for each of a few arguments, side by side. Knows nothing of what the jobs do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

A = TypeVar("A")
T = TypeVar("T")


class Parallel:
    """Runs jobs in threads of its own, and in the caller's.

    Args:
        threads: how many threads.
        name: what they are named.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    def each(self, job: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
        """`job` of each argument, in parallel; all have ended when the first error is raised."""
        if len(arguments) < 2:  # noqa: PLR2004 - there is nothing to do beside it
            return [job(argument) for argument in arguments]
        futures = [self._pool.submit(job, argument) for argument in arguments[1:]]
        # the first one here: a thread that only waited would have to be woken
        futures.insert(0, _done(job, arguments[0]))
        errors = [error for error in [future.exception() for future in futures] if error is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads; jobs under way are finished first."""
        self._pool.shutdown()


def _done(job: Callable[[Any], T], argument: object) -> Future[T]:
    """The outcome of `job`, done here and now."""
    future: Future[T] = Future()
    try:
        future.set_result(job(argument))
    except Exception as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
    return future

"""The partitions that a worker has, and which of them have lost their late store and are to start again.

Knows no Kafka: what is read again after that is the job's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from schema.config import Config
from streaming.counts import Counts
from streaming.emitter import MissingLog
from streaming.holding import Holding
from streaming.late import LateStoreError
from streaming.rules import Rules

_log = logging.getLogger(__name__)


class Holdings:
    """The partitions of one worker by number.

    Args:
        config: the deployment.
        rules: what makes a label.
        worker_dir: this worker's folder.
        counts: where to count.
        wake: called when there may be something to send.
        lost: called when a partition has broken.
        fail: called with an error that the worker cannot go on after.
    """

    def __init__(
        self,
        config: Config,
        rules: Rules,
        worker_dir: Path,
        *,
        counts: Counts,
        wake: Callable[[], None],
        lost: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self.broken: set[int] = set()
        self._all: dict[int, Holding] = {}
        self._config, self._rules, self._dir = config, rules, worker_dir
        self._counts, self._wake, self._lost, self._fail = counts, wake, lost, fail

    def __iter__(self) -> Iterator[Holding]:
        return iter(list(self._all.values()))

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def get(self, number: int) -> Holding | None:
        """A partition of this worker's, None if it is not."""
        return self._all.get(number)

    def sound(self) -> list[Holding]:
        """Those that are not broken."""
        return [holding for holding in self if holding.number not in self.broken]

    def has(self, holding: Holding) -> bool:
        """Whether it is still this worker's, and not broken."""
        return self._all.get(holding.number) is holding and holding.number not in self.broken

    def hold(self, number: int) -> None:
        """A partition is this worker's from now on."""
        self._all[number] = Holding(
            self._config,
            self._rules,
            number,
            self._dir,
            counts=self._counts,
            wake=self._wake,
            failed=self._break,
        )

    async def let_go(self, numbers: Iterable[int]) -> list[Holding]:
        """These are not this worker's any more; those that were, closed."""
        gone = [self._all.pop(number) for number in list(numbers) if number in self._all]
        await asyncio.gather(*(holding.close() for holding in gone))
        return gone

    async def let_all_go(self) -> None:
        """None is this worker's any more."""
        await self.let_go(list(self._all))

    def safely(self, holding: Holding, work: Callable[[], Any]) -> Any:
        """What `work` gives; None where it breaks the partition."""
        try:
            return work()
        except (LateStoreError, MissingLog) as error:
            self._break(holding, error)
        return None

    def _break(self, holding: Holding, error: BaseException) -> None:
        if not isinstance(error, LateStoreError | MissingLog):
            self._fail(error)
        elif self.has(holding):
            _log.error("partition %d starts again from what was acknowledged: %s", holding.number, error)
            self.broken.add(holding.number)
            self._lost()

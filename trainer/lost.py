"""What a shard has forgotten: it died, and came back as its last checkpoint was. Pure.

A shard's clock rises with every push it applies, and each push tells the clock. A clock that did not rise
means that the shard had gone back, and the clocks seen before say to which step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

_STEPS_REMEMBERED: Final = 5000


class Loss(msgspec.Struct, frozen=True):
    """Steps `from_step` to `to_step` (both included), of `rows` rows, that `shard` no longer knows.

    `epoch` is the one it came back with. Rows of steps too long ago to be remembered are not counted.
    """

    shard: int
    epoch: int
    from_step: int
    to_step: int
    rows: int


class _Pushed(NamedTuple):
    step: int
    rows: int
    clock: int


class LossWatch:
    """Remembers the last pushes to each of `shards` shards."""

    def __init__(self, shards: int) -> None:
        self._pushed: list[deque[_Pushed]] = [deque(maxlen=_STEPS_REMEMBERED) for _ in range(shards)]

    def pushed(self, step: int, rows: int, clocks: Sequence[int], applied: Sequence[bool]) -> list[Loss]:
        """Remember a push: of each shard its clock afterwards, and whether it applied the push now or before.

        Returns what turns out to be lost, with epoch 0.
        """
        found = []
        for shard, (clock, now) in enumerate(zip(clocks, applied, strict=True)):
            had = self._pushed[shard]
            # a push that is applied has itself raised the clock by one
            if had and clock < had[-1].clock + now:
                found += self._forget(shard, 0, [p for p in had if p.clock >= clock])
            had.append(_Pushed(step, rows, clock))
        return found

    def observed(self, shard: int, epoch: int, last_step: int) -> list[Loss]:
        """What is lost now that `shard` says, between pushes, that `last_step` was the last it applied."""
        return self._forget(shard, epoch, [p for p in self._pushed[shard] if p.step > last_step])

    def _forget(self, shard: int, epoch: int, lost: list[_Pushed]) -> list[Loss]:
        if not lost:
            return []
        for _ in lost:
            self._pushed[shard].pop()
        return [Loss(shard, epoch, lost[0].step, lost[-1].step, sum(p.rows for p in lost))]

    def state(self) -> list[list[tuple[int, int, int]]]:
        """For each shard (step, rows, clock) of the pushes remembered."""
        return [[(p.step, p.rows, p.clock) for p in had] for had in self._pushed]

    def restore(self, state: list[list[tuple[int, int, int]]]) -> None:
        """Take the place of whatever was remembered. A shard that the state lacks starts empty."""
        for had, saved in zip(self._pushed, state, strict=False):
            had.clear()
            had.extend(_Pushed(*p) for p in saved)

"""Which traced samples a round of deltas made servable. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parameter_server.delta import Delta
from schema.records import I64


class Traces:
    """Follows the steps of every trainer through the shards.

    A step has been learned everywhere once every shard's rows contain it. A shard tells of the pushes behind
    a delta, each with the times at which some samples of its step were complete; all shards may tell of the
    same step, which counts once.
    """

    def __init__(self, shards: int) -> None:
        self._steps: list[Mapping[str, int]] = [{} for _ in range(shards)]
        self._pending: dict[tuple[str, int], I64] = {}
        self._covered: dict[str, int] = {}

    def learned(self, deltas: Sequence[Delta]) -> I64:
        """The times, in Unix ms, of the samples that `deltas`, once applied, complete."""
        for delta in deltas:
            self._steps[delta.shard] = delta.steps
        covered = covered_steps(self._steps)
        for delta in deltas:
            self._pending.update(
                ((trace.trainer, trace.step), trace.completed_at)
                for trace in delta.traces
                if trace.step > self._before(trace.trainer, covered)
            )
        done = sorted(key for key in self._pending if key[1] <= covered.get(key[0], -1))
        times = [self._pending.pop(key) for key in done]
        self._covered = covered
        return np.concatenate(times) if times else np.empty(0, np.int64)

    def _before(self, trainer: str, covered: Mapping[str, int]) -> int:
        """The step up to which nothing is new.

        It may be less than before: the shards were restored from an older state, and steps are pushed again.
        """
        return min(self._covered.get(trainer, -1), covered.get(trainer, -1))


def covered_steps(steps: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The last step that every shard has, of each trainer that every shard knows."""
    trainers = set.intersection(*(set(shard) for shard in steps))
    return {trainer: min(shard[trainer] for shard in steps) for trainer in trainers}

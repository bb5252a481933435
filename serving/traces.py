"""Which traced samples a round of deltas made servable. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parameter_server.delta import Delta
from schema.records import I64


class Traces:
    """Follows the steps of one trainer through the shards.

    A step has been learned everywhere once every shard's rows contain it. A shard tells of the pushes behind
    a delta, each with the times at which some samples of its step were complete; all shards may tell of the
    same step, which counts once.
    """

    def __init__(self, shards: int) -> None:
        self._steps: list[Mapping[str, int]] = [{} for _ in range(shards)]
        self._pending: dict[int, I64] = {}
        self._covered = -1

    def learned(self, deltas: Sequence[Delta]) -> I64:
        """The times, in Unix ms, of the samples that `deltas`, once applied, complete."""
        for delta in deltas:
            self._steps[delta.shard] = delta.steps
        covered = covered_step(self._steps)
        # less than before: the shards were restored from an older state, and its steps are pushed again
        before = min(self._covered, covered)
        for delta in deltas:
            self._pending.update((t.step, t.completed_at) for t in delta.traces if t.step > before)
        done = sorted(step for step in self._pending if step <= covered)
        times = [self._pending.pop(step) for step in done]
        self._covered = covered
        return np.concatenate(times) if times else np.empty(0, np.int64)


def covered_step(steps: Sequence[Mapping[str, int]]) -> int:
    """The last step that every shard has of a trainer, of the trainer that is furthest; -1 for none."""
    trainers = {trainer for shard in steps for trainer in shard}
    return max((min(shard.get(trainer, -1) for shard in steps) for trainer in trainers), default=-1)

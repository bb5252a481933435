"""Clocks from a kill until the step at which it came has been done again, by what the time goes into."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass

from recovery_parts.deployment import Deployment
from trainer.errors import ShardReset
from trainer.loop import Trainer


@dataclass
class Parts:
    """Seconds.

    `until_noticed`: the killed process is there again, and the trainer knows. `standing_up`: a trainer is
    made. `returning`: it and the shards are what they were at the point. `steps_again`: of the steps since.
    """

    until_noticed: float
    standing_up: float = 0.0
    returning: float = 0.0
    steps_again: float = 0.0

    def described(self) -> dict[str, float]:
        """The parts and their sum."""
        parts = asdict(self)
        return parts | {"in_all": sum(parts.values())}


def after_a_shard(deployment: Deployment, trainer: Trainer) -> Parts:
    """Kill a shard beside `trainer`, which ends by it, and have another be where it was."""
    step = trainer.state.counters.step
    began = time.perf_counter()
    deployment.kill_shard(0)
    try:
        while True:
            trainer.advance()
    except ShardReset:
        trainer.close()
    return until_again(deployment, step, Parts(time.perf_counter() - began))


def after_the_trainer(deployment: Deployment, step: int) -> Parts:
    """Have a trainer be at `step` in the place of one that was killed."""
    return until_again(deployment, step, Parts(start_seconds()))


def until_again(deployment: Deployment, step: int, parts: Parts) -> Parts:
    """Have a trainer anew do `step`, and add to `parts` what that takes."""
    began = time.perf_counter()
    with closing(deployment.new_trainer()) as trainer:
        stood = time.perf_counter()
        returned: list[float] = []

        def returning() -> bool:
            # asked before each step that is done again
            returned.append(time.perf_counter())
            return False

        trainer.recover(returning)
        while trainer.state.counters.step < step:
            trainer.advance()
        ended = time.perf_counter()
    parts.standing_up = stood - began
    parts.returning = returned[0] - stood
    parts.steps_again = ended - returned[0]
    return parts


def start_seconds() -> float:
    """How long a trainer process takes before it does anything."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "trainer", "--help"], check=True, capture_output=True, timeout=120)
    return time.perf_counter() - began

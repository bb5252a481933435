"""kill -9 of a shard that is checkpointing: what comes back is the previous checkpoint or the new one, whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parameter_server import checkpoint
from parameter_server.restore import folder_of, open_shard
from parameter_server.shard import Shard
from tests.parameter_server.checkpointing import STEPS_A_CHECKPOINT, last_step, settings, train

ROOT = Path(__file__).parents[2]


class Expected:
    """What a shard holds after each step, made by doing the steps."""

    def __init__(self) -> None:
        self._shard = Shard(settings(), 0)
        self._after = {-1: self._content(self._shard)}

    def after(self, step: int) -> object:
        for missing in range(last_step(self._shard) + 1, step + 1):
            train(self._shard, missing)
            self._after[missing] = self._content(self._shard)
        return self._after[step]

    @staticmethod
    def _content(shard: Shard) -> object:
        digests = [shard.digest(name) for name in shard.tables]
        return digests, shard.state().steps, shard.dense.all(), shard.row_counts()


def kill_once(run_dir: Path, after_seconds: float) -> None:
    command = [sys.executable, "-m", "tests.parameter_server.checkpointing", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(after_seconds)  # a random point of the work, not a wait for anything
        process.kill()
        process.wait(10)


def rounds(run_dir: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    expected = Expected()
    before = -1
    for _ in range(count):
        kill_once(run_dir, rng.uniform(0.0, 0.4))
        opened = open_shard(settings(), 0, run_dir)
        step = last_step(opened.shard)
        assert step >= before, "a finished checkpoint was lost"
        assert (step + 1) % STEPS_A_CHECKPOINT == 0
        assert Expected._content(opened.shard) == expected.after(step)
        opened.shard.check_integrity()
        opened.checkpoints.close()
        before = step
    assert before > 0
    # one more where it was killed before it had dropped the oldest
    assert len(checkpoint.found(folder_of(run_dir, 0))) <= 4


def test_a_shard_killed_while_it_checkpoints_restores_a_whole_one(tmp_path: Path) -> None:
    rounds(tmp_path, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_shard_killed_fifty_times_while_it_checkpoints(tmp_path: Path) -> None:
    rounds(tmp_path, 50, seed=2)

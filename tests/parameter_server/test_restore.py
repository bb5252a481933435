"""Checkpoints of N shards restored onto M: the same rows in all, each on the shard of its bucket."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from parameter_server import checkpoint
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError
from parameter_server.restore import Opened, folder_of, open_shard, retire
from parameter_server.router import shard_of, split
from parameter_server.shard import Shard
from tests.parameter_server.cases import WIDE, config, gradients, u64

COUNTS = (1, 2, 3, 5)
TABLES = ("embedding", "wide")
MODULUS = 1 << 64


def train(shards: list[Shard], steps: range) -> None:
    """Every shard is told of every step, as the client does."""
    for step in steps:
        rng = np.random.default_rng(step)
        ids = rng.integers(0, 900, 250, dtype=np.uint64)
        values = {"embedding": gradients(rng, 250), "wide": gradients(rng, 250, WIDE.dim)}
        gone = rng.integers(0, 900, 20, dtype=np.uint64)
        for shard, where in split(ids, len(shards)):
            chosen = slice(None) if where is None else where
            pairs = {table: (ids[chosen], value[chosen]) for table, value in values.items()}
            shards[shard].push("a", step, pairs, step)
        for shard, where in split(gone, len(shards)):
            shards[shard].evict("wide", gone if where is None else gone[where])
    shards[0].dense.put("model", DenseVersion(steps[-1], steps[-1], b"weights"))


def open_all(count: int, run_dir: Path) -> list[Opened]:
    return [open_shard(config(shards=count), index, run_dir) for index in range(count)]


def save_all(opened: list[Opened], run_dir: Path) -> None:
    for each in opened:
        each.checkpoints.save(each.shard)
    for index, each in enumerate(opened):
        retire(run_dir, index, each.checkpoints, len(opened))


def close_all(opened: list[Opened]) -> None:
    for each in opened:
        each.checkpoints.close()


def content(shards: list[Shard]) -> dict[str, int]:
    """A digest over all shards: digests of rows add up."""
    return {table: sum(shard.digest(table)[1] for shard in shards) % MODULUS for table in TABLES}


@pytest.mark.parametrize("before", COUNTS)
@pytest.mark.parametrize("after", COUNTS)
def test_n_shards_restore_onto_m(tmp_path: Path, before: int, after: int) -> None:
    alone = [Shard(config(), 0)]
    opened = open_all(before, tmp_path)
    for steps in (range(6), range(6, 9)):  # two segments
        train(alone, steps)
        train([each.shard for each in opened], steps)
        save_all(opened, tmp_path)
    close_all(opened)

    again = open_all(after, tmp_path)
    shards = [each.shard for each in again]
    assert [each.rerouted for each in again] == [before != after] * after
    assert content(shards) == content(alone)
    for index, shard in enumerate(shards):
        held = shard.saving(None, 10_000)
        for part in held:
            assert (shard_of(part.columns["ids"], after) == index).all()
        assert shard.state().steps == {"a": 8}
        shard.check_integrity()
    assert shards[0].dense.get("model", -1) == (8, 8, b"weights")

    save_all(again, tmp_path)
    for each in (alone, shards):
        train(each, range(9, 15))
    assert content(shards) == content(alone), "optimizer state was lost on the way"
    save_all(again, tmp_path)
    close_all(again)
    assert content([each.shard for each in open_all(after, tmp_path)]) == content(alone)


def test_back_and_forth_never_takes_up_an_old_state(tmp_path: Path) -> None:
    alone = [Shard(config(), 0)]
    step = 0
    for count in (3, 2, 3, 1, 3):
        opened = open_all(count, tmp_path)
        shards = [each.shard for each in opened]
        assert content(shards) == content(alone)
        save_all(opened, tmp_path)
        for each in (alone, shards):
            train(each, range(step, step + 3))
        step += 3
        save_all(opened, tmp_path)
        close_all(opened)
        held = {int(f.name[-1]) for f in tmp_path.glob("shard-*") if checkpoint.found(f)}
        assert held == set(range(count)), "checkpoints of the earlier number are left"


def test_a_shard_that_dies_before_the_others_have_moved_keeps_what_it_has(tmp_path: Path) -> None:
    opened = open_all(2, tmp_path)
    train([each.shard for each in opened], range(4))
    save_all(opened, tmp_path)
    close_all(opened)
    first = open_shard(config(shards=3), 0, tmp_path)
    first.checkpoints.save(first.shard)
    retire(tmp_path, 0, first.checkpoints, 3)
    first.shard.push("a", 9, {}, 0)
    first.checkpoints.save(first.shard)
    first.checkpoints.close()
    again = open_shard(config(shards=3), 0, tmp_path)
    assert (again.rerouted, again.shard.state().steps) == (False, {"a": 9})
    other = open_shard(config(shards=3), 1, tmp_path)
    assert (other.rerouted, other.shard.state().steps) == (True, {"a": 3})


def test_a_damaged_source_falls_back_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = open_all(2, tmp_path)
    for steps in (range(3), range(3, 6)):
        train([each.shard for each in opened], steps)
        save_all(opened, tmp_path)
    close_all(opened)
    newest = checkpoint.found(folder_of(tmp_path, 1))[0]
    for file in (newest / "rows").glob("*.sst"):
        file.unlink()
    with caplog.at_level(logging.WARNING):
        back = open_shard(config(), 0, tmp_path)
    assert newest.name in caplog.text
    assert "of different steps" in caplog.text
    assert back.shard.state().steps == {"a": 5}


def test_missing_shards_are_refused_rather_than_forgotten(tmp_path: Path) -> None:
    opened = open_all(3, tmp_path)
    train([each.shard for each in opened], range(3))
    save_all(opened, tmp_path)
    close_all(opened)
    for path in checkpoint.found(folder_of(tmp_path, 2)):
        path.rename(tmp_path / path.name)
    with pytest.raises(CheckpointError, match=r"of shard 0 of 3; this is shard 0 of 1, and .*ps restore"):
        open_shard(config(), 0, tmp_path)
    assert open_shard(config(shards=3), 1, tmp_path).shard.row_counts()["embedding"] > 0


def test_nothing_saved_is_an_empty_shard(tmp_path: Path) -> None:
    opened = open_shard(config(), 0, tmp_path)
    assert (opened.shard.state().clock, opened.rerouted) == (0, False)
    opened.shard.push("a", 0, {"embedding": (u64([1]), np.ones((1, 4), np.float32))}, 0)
    assert not opened.checkpoints.save(opened.shard).incremental

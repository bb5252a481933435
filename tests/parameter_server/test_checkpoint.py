"""Checkpoints: a restored shard equals the saved one; what is half-written or damaged is passed over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parameter_server import checkpoint
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError
from parameter_server.shard import Shard
from schema.config import TableConfig
from tests.parameter_server.cases import SMALL, config, random_round

Damage = Callable[[Path], object]


def history(shard: Shard, steps: range, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in steps:
        random_round(shard, rng, step)


def trained() -> Shard:
    shard = Shard(config(), 0)
    history(shard, range(20), 0)
    shard.dense.put("model", DenseVersion(3, 19, b"\x00weights"))
    shard.dense.put("a name/with a slash", DenseVersion(1, 1, b""))
    return shard


def restored(folder: Path) -> Shard:
    image = checkpoint.newest(folder)
    assert image is not None
    return Shard(config(), 0, image)


def digests(shard: Shard) -> dict[str, tuple[int, int]]:
    return {name: shard.digest(name) for name in shard.tables}


def test_a_restored_shard_equals_the_saved_one_and_goes_on_alike(tmp_path: Path) -> None:
    shard = trained()
    checkpoint.save(shard.image(), tmp_path)
    back = restored(tmp_path)
    assert digests(back) == digests(shard)
    assert back.state()[1:] == shard.state()[1:]
    assert back.dense.all() == shard.dense.all()
    back.check_integrity()
    for each in (shard, back):
        history(each, range(20, 40), 1)
    assert digests(back) == digests(shard), "optimizer state differs"


def test_a_restored_shard_has_a_new_epoch_so_that_replicas_start_over(tmp_path: Path) -> None:
    shard = trained()
    checkpoint.save(shard.image(), tmp_path)
    back = restored(tmp_path)
    assert back.epoch != shard.epoch
    assert back.delta((shard.epoch, shard.state().clock)).full


def test_a_push_is_known_after_a_restore(tmp_path: Path) -> None:
    shard = trained()
    checkpoint.save(shard.image(), tmp_path)
    assert not restored(tmp_path).push("trainer", 19, {}, 0).applied
    assert restored(tmp_path).push("trainer", 20, {}, 0).applied


def test_nothing_saved_is_none_and_an_empty_shard_can_be_saved(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "never") is None
    checkpoint.save(Shard(config(), 0).image(), tmp_path / "deep" / "er")
    assert restored(tmp_path / "deep" / "er").row_counts() == {"embedding": 0, "wide": 0}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    shard = trained()
    for _ in range(4):
        checkpoint.save(shard.image(), tmp_path)
    assert [path.name for path in checkpoint.found(tmp_path)] == [
        "checkpoint-000000000004",
        "checkpoint-000000000003",
    ]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Damage] = {
    "no manifest": lambda p: (p / "MANIFEST.json").unlink(),
    "half a manifest": lambda p: truncate(p / "MANIFEST.json"),
    "another format": lambda p: (p / "MANIFEST.json").write_text(
        (p / "MANIFEST.json").read_text().replace('"format":1', '"format":2')
    ),
    "a column is missing": lambda p: (p / "embedding.vectors").unlink(),
    "a column is cut": lambda p: truncate(p / "wide.ids"),
    "a bit is flipped": lambda p: flip(p / "embedding.state"),
    "dense is damaged": lambda p: flip(p / "dense-0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard = trained()
    checkpoint.save(shard.image(), tmp_path)
    earlier = digests(shard)
    history(shard, range(20, 30), 1)
    newest = checkpoint.save(shard.image(), tmp_path)
    DAMAGE[damage](newest)
    with caplog.at_level(logging.WARNING):
        assert digests(restored(tmp_path)) == earlier
    assert newest.name in caplog.text
    assert checkpoint.save(shard.image(), tmp_path).name == "checkpoint-000000000003"


def test_when_none_is_whole_it_says_so_rather_than_start_empty(tmp_path: Path) -> None:
    DAMAGE["a bit is flipped"](checkpoint.save(trained().image(), tmp_path))
    with pytest.raises(CheckpointError, match=r"embedding.state: does not match"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("writes", range(12))
def test_a_save_that_dies_at_any_write_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    shard = trained()
    checkpoint.save(shard.image(), tmp_path)
    before = digests(shard)
    history(shard, range(20, 30), 1)
    real, count = checkpoint._write, 0

    def dying(path: Path, data: object) -> object:
        nonlocal count
        count += 1
        if count > writes:
            path.write_bytes(b"half")
            raise OSError("the disk is full")
        return real(path, data)

    monkeypatch.setattr(checkpoint, "_write", dying)
    with pytest.raises(OSError, match="full"):
        checkpoint.save(shard.image(), tmp_path)
    assert digests(restored(tmp_path)) == before
    monkeypatch.undo()
    checkpoint.save(shard.image(), tmp_path)
    assert digests(restored(tmp_path)) == digests(shard)
    assert sorted(p.name[:10] for p in tmp_path.iterdir()) == ["checkpoint"] * 2


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ((SMALL,), "table 'wide': not configured; legal are embedding"),
        ((SMALL, TableConfig(name="wide", dim=8)), "table wide: dim 9 in the checkpoint; configured is 8"),
    ],
)
def test_a_checkpoint_of_other_tables_is_refused(
    tmp_path: Path, tables: tuple[TableConfig, ...], message: str
) -> None:
    checkpoint.save(trained().image(), tmp_path)
    with pytest.raises(CheckpointError, match=message):
        Shard(config(tables=tables), 0, checkpoint.newest(tmp_path))

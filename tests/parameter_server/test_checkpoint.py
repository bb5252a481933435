"""Checkpoints: a restored shard equals the saved one; what is half-written or damaged is passed over."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parameter_server import checkpoint, restore
from parameter_server.checkpoint import Checkpoints
from parameter_server.database import Database
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig, TableConfig
from tests.parameter_server.cases import SMALL, config, gradients, random_round, u64

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


def writer(folder: Path, **changes: object) -> Checkpoints:
    return Checkpoints(folder, **{"kept": 2, "shards": 1, **changes})  # type: ignore[arg-type]


def restored(folder: Path, settings: ParameterServerConfig | None = None) -> Shard:
    return restore.first_whole(settings or config(), 0, checkpoint.found(folder))[0]


def digests(shard: Shard) -> dict[str, tuple[int, int]]:
    return {name: shard.digest(name) for name in shard.tables}


def test_a_restored_shard_equals_the_saved_one_and_goes_on_alike(tmp_path: Path) -> None:
    shard = trained()
    writer(tmp_path).save(shard)
    back = restored(tmp_path)
    assert digests(back) == digests(shard)
    assert back.state()[1:] == shard.state()[1:]
    assert back.dense.all() == shard.dense.all()
    back.check_integrity()
    for each in (shard, back):
        history(each, range(20, 40), 1)
    assert digests(back) == digests(shard), "optimizer state differs"


def test_each_of_many_incremental_checkpoints_restores_exactly(tmp_path: Path) -> None:
    shard, checkpoints = trained(), writer(tmp_path, kept=100)
    saved = []
    for number in range(12):
        history(shard, range(20 + 3 * number, 23 + 3 * number), number)
        if number % 4 == 1:
            shard.dense.put("model", DenseVersion(4 + number, 20, b"new" * number))
        path = checkpoints.save(shard).path
        saved.append((path, digests(shard), shard.state()[1:], shard.dense.all()))
    for path, expected, state, dense in saved:
        back = Shard(config(), 0, checkpoint.load(path))
        assert (digests(back), back.state()[1:], back.dense.all()) == (expected, state, dense)
        back.check_integrity()


def test_only_what_changed_is_written_also_after_a_restart(tmp_path: Path) -> None:
    shard = Shard(config(), 0)
    ids = u64(range(5000))
    shard.push("a", 0, {"embedding": (ids, gradients(np.random.default_rng(0), len(ids)))}, 0)
    checkpoints = writer(tmp_path)
    assert not checkpoints.save(shard).incremental
    shard.push("a", 1, {"embedding": (ids[:7], gradients(np.random.default_rng(1), 7))}, 0)
    shard.evict("embedding", ids[100:120])
    path = checkpoints.save(shard).path
    segments = checkpoint.manifest_of(path).segments
    assert [segment.rows for segment in segments] == [5000, 7]
    (first, second) = ({f.stat().st_ino for f in rows_of(each)} for each in checkpoint.found(tmp_path)[::-1])
    assert first < second, "the rows of before are hard links to the same files"
    checkpoints.close()

    back, base = restore.first_whole(config(), 0, checkpoint.found(tmp_path))
    again = writer(tmp_path, base=base)
    back.push("a", 2, {"embedding": (ids[:3], gradients(np.random.default_rng(2), 3))}, 0)
    saved = again.save(back)
    assert saved.incremental
    assert [segment.rows for segment in checkpoint.manifest_of(saved.path).segments] == [5000, 7, 3]
    assert digests(restored(tmp_path)) == digests(back)


def test_it_starts_over_once_more_is_superseded_than_held(tmp_path: Path) -> None:
    shard, checkpoints = Shard(config(), 0), writer(tmp_path)
    ids = u64(range(9000))
    kinds = []
    for step in range(6):
        shard.push("a", step, {"embedding": (ids, gradients(np.random.default_rng(step), len(ids)))}, 0)
        kinds.append(checkpoints.save(shard).incremental)
    assert kinds == [False, True, True, False, True, True]
    assert digests(restored(tmp_path)) == digests(shard)


def test_forgotten_removals_make_the_next_one_of_everything(tmp_path: Path) -> None:
    shard, checkpoints = Shard(config(tombstones_kept=1), 0), writer(tmp_path)
    history(shard, range(10), 0)
    checkpoints.save(shard)
    history(shard, range(10, 20), 1)
    assert not checkpoints.save(shard).incremental
    assert digests(restored(tmp_path)) == digests(shard)


def test_a_checkpoint_taken_while_pushes_go_on_is_of_one_clock(tmp_path: Path) -> None:
    """The clock that it is of tells which pushes it holds: a shard that has just those is equal to it."""
    settings = config(tables=(SMALL,))
    shard, checkpoints = Shard(settings, 0), writer(tmp_path, kept=100)
    done = threading.Event()

    def step_of(shard: Shard, step: int) -> None:
        rng = np.random.default_rng(step)
        ids = rng.integers(0, 20_000, 400, dtype=np.uint64)
        shard.push("a", step, {"embedding": (ids, gradients(rng, len(ids)))}, step)
        if step % 3 == 0:
            shard.evict("embedding", rng.integers(0, 20_000, 50, dtype=np.uint64))

    def train() -> None:
        step = 0
        while not done.is_set():
            step_of(shard, step)
            step += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    paths = [checkpoints.save(shard).path for _ in range(8)]
    done.set()
    trainer.join(30)
    assert checkpoint.manifest_of(paths[-1]).steps["a"] > 8
    again, step = Shard(settings, 0), 0
    for path in paths:
        back = Shard(settings, 0, checkpoint.load(path))
        while again.state().steps.get("a", -1) < back.state().steps.get("a", -1):
            step_of(again, step)
            step += 1
        if again.state().clock == back.state().clock:  # else it is of between a push and its removals
            assert digests(back) == digests(again)
        back.check_integrity()


def test_a_restored_shard_has_a_new_epoch_so_that_replicas_start_over(tmp_path: Path) -> None:
    shard = trained()
    writer(tmp_path).save(shard)
    back = restored(tmp_path)
    assert back.epoch != shard.epoch
    assert back.delta((shard.epoch, shard.state().clock)).full


def test_a_push_is_known_after_a_restore(tmp_path: Path) -> None:
    shard = trained()
    writer(tmp_path).save(shard)
    assert not restored(tmp_path).push("trainer", 19, {}, 0).applied
    assert restored(tmp_path).push("trainer", 20, {}, 0).applied


def test_an_empty_shard_can_be_saved(tmp_path: Path) -> None:
    writer(tmp_path / "deep" / "er").save(Shard(config(), 0))
    assert restored(tmp_path / "deep" / "er").row_counts() == {"embedding": 0, "wide": 0}


def test_the_last_two_are_kept_and_named_ones_apart(tmp_path: Path) -> None:
    shard, checkpoints = trained(), writer(tmp_path)
    for name in ("", "", "first", "", "second", "", "third", ""):
        checkpoints.save(shard, name)
    assert [path.name for path in checkpoint.found(tmp_path)] == [
        "checkpoint-000000000008",
        "checkpoint-000000000007-third",
        "checkpoint-000000000006",
        "checkpoint-000000000005-second",
    ]
    for path in checkpoint.found(tmp_path):
        assert digests(Shard(config(), 0, checkpoint.load(path))) == digests(shard)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # it may be linked from elsewhere
    path.write_bytes(data)


def truncate(path: Path) -> None:
    data = path.read_bytes()[:-1]
    path.unlink()
    path.write_bytes(data)


def rows_of(path: Path) -> list[Path]:
    return sorted((path / "rows").glob("*.sst"))


def newest_rows(path: Path) -> Path:
    return rows_of(path)[-1]


DAMAGE: dict[str, Damage] = {
    "no manifest": lambda p: (p / "MANIFEST.json").unlink(),
    "half a manifest": lambda p: truncate(p / "MANIFEST.json"),
    "another format": lambda p: (p / "MANIFEST.json").write_text(
        (p / "MANIFEST.json").read_text().replace('"format":3', '"format":99')
    ),
    "rows are missing": lambda p: newest_rows(p).unlink(),
    "rows are cut": lambda p: truncate(newest_rows(p)),
    "a bit of the rows is flipped": lambda p: flip(newest_rows(p)),
    "the database's own manifest is missing": lambda p: (p / "rows" / "CURRENT").unlink(),
    "there is no database": lambda p: (p / "rows").rename(p / "elsewhere"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    shard, checkpoints = trained(), writer(tmp_path)
    checkpoints.save(shard)
    earlier = digests(shard)
    history(shard, range(20, 30), 1)
    newest = checkpoints.save(shard).path
    checkpoints.close()
    DAMAGE[damage](newest)
    with caplog.at_level(logging.WARNING):
        assert digests(restored(tmp_path)) == earlier
    assert newest.name in caplog.text
    back, base = restore.first_whole(config(), 0, checkpoint.found(tmp_path))
    history(back, range(20, 30), 1)
    assert writer(tmp_path, base=base).save(back).path.name == "checkpoint-000000000003"
    assert digests(restored(tmp_path)) == digests(shard)


def test_when_none_is_whole_it_says_so_rather_than_start_empty(tmp_path: Path) -> None:
    DAMAGE["rows are missing"](writer(tmp_path).save(trained()).path)
    with pytest.raises(CheckpointError, match="checkpoint-000000000001"):
        restored(tmp_path)


@pytest.mark.parametrize("puts", range(6))
def test_a_save_that_fails_at_any_write_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    shard, checkpoints = trained(), writer(tmp_path)
    checkpoints.save(shard)
    before = digests(shard)
    history(shard, range(20, 30), 1)
    shard.dense.put("model", DenseVersion(9, 29, b"later"))
    real, count = Database.put, 0

    def dying(self: Database, key: bytes, value: bytes) -> None:
        nonlocal count
        count += 1
        if count > puts:
            raise OSError("the disk is full")
        real(self, key, value)

    monkeypatch.setattr(Database, "put", dying)
    if puts < 3:
        with pytest.raises(OSError, match="full"):
            checkpoints.save(shard)
        assert digests(restored(tmp_path)) == before
    monkeypatch.undo()
    checkpoints.save(shard)
    assert digests(restored(tmp_path)) == digests(shard)
    assert sorted(p.name.partition("-")[0] for p in tmp_path.iterdir()) == ["checkpoint"] * 2 + ["live"]


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
    writer(tmp_path).save(trained())
    with pytest.raises(CheckpointError, match=message):
        restored(tmp_path, config(tables=tables))

"""The experiments on a few made-up rows: arms differ by what they claim to differ by, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from experiments import report
from experiments.__main__ import app
from experiments.claims import CLAIMS, hashed, table_size
from experiments.data import DataError, Stream, kuairand, movielens
from experiments.world import Copy, World

HOUR = 3_600_000


def stream(rows: int = 1200, seed: int = 0, hours: int = 6 * 24) -> Stream:
    """Users who like much or little, and items that are liked more or less, over `hours`."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 60, rows), rng.integers(0, 40, rows)
    odds = np.where(users % 2, 1.0, -1.0) + np.where(items % 3 == 0, 1.5, -0.5)
    times = np.sort(rng.integers(0, hours * HOUR, rows))
    labels = (rng.random(rows) < 1 / (1 + np.exp(-1.5 * odds)))[:, None].astype(np.float32)
    ids = {"user": users.astype(np.int64), "item": items.astype(np.int64)}
    return Stream("made up", ("liked",), times, times // (24 * HOUR), ids, labels)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_is_a_function_of_stream_and_seed(claim):
    rows = stream()
    found = CLAIMS[claim](rows, 1)
    assert found == CLAIMS[claim](rows, 1)
    assert found != CLAIMS[claim](rows, 2)
    assert all(0 < auc < 1 for aucs in found.values() for auc in aucs)


def test_a_copy_is_the_trainer_as_of_its_last_sync():
    rows = stream()
    world = World(rows, shards=3)
    copy = Copy(world)
    world.train(slice(0, 400))
    prepared = world.prepared(slice(400, 500))
    before = copy.score(prepared)
    copy.sync()
    after = copy.score(prepared)
    assert not np.array_equal(before, after)
    np.testing.assert_allclose(after, world.train(slice(400, 500)), atol=1e-6)


def test_worlds_of_one_shard_and_of_many_agree():
    rows = stream()
    one, many = World(rows, 1), World(rows, 10)
    for part in rows.batches(100):
        np.testing.assert_allclose(one.train(part), many.train(part), atol=1e-6)


@pytest.mark.parametrize("rate", [0.0286, 0.0773, 0.25, 0.5])
def test_a_table_is_as_small_as_its_collision_rate_needs(rate):
    count = 20_000
    ids = np.arange(count, dtype=np.int64)
    rows = Stream("ids", (), ids, ids, {"user": ids, "tab": ids}, np.empty((count, 0), np.float32))
    made = hashed(rows, {"user": rate}, seed=3)
    assert 1 - len(np.unique(made.ids["user"])) / count == pytest.approx(rate, abs=0.005)
    assert made.ids["user"].max() < table_size(count, rate)
    assert np.array_equal(made.ids["tab"], ids)


def test_equal_ids_stay_equal_when_hashed():
    rows = stream()
    made = hashed(rows, {"user": 0.25}, seed=0).ids["user"]
    pairs = set(zip(rows.ids["user"].tolist(), made.tolist(), strict=True))
    assert len(pairs) == len(np.unique(rows.ids["user"]))


def test_intervals_are_student_s():
    assert report.half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.30265 / np.sqrt(3), rel=1e-4)
    assert np.isnan(report.half_width(np.array([1.0])))


def test_the_command_writes_a_table_and_a_plot(tmp_path):
    folder = tmp_path / "movielens_small"
    folder.mkdir()
    rows = stream(600)
    stars = np.where(rows.labels[:, 0] > 0, 4.0, 2.5)
    columns = zip(rows.ids["user"], rows.ids["item"], stars, rows.times // 1000, strict=True)
    lines = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in columns)]
    (folder / "ratings.csv").write_text("\n".join(lines))
    command = ["sync-interval", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--seeds", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "out/sync-interval.md").read_text()
    assert [line.split("|")[3].strip() for line in table.splitlines()[2:]] == ["5 h", "1 h", "30 min", "live"]
    assert (tmp_path / "out/sync-interval.svg").read_text().startswith("<?xml")


def test_a_folder_without_logs_is_refused(tmp_path):
    result = CliRunner().invoke(app, ["collisions", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no log; legal is a folder with kuairand/ or movielens_small/" in result.output


@pytest.mark.parametrize("read", [kuairand, movielens])
def test_a_log_that_is_not_there_is_named(read, tmp_path):
    with pytest.raises(DataError, match="legal is the folder of"):
        read(tmp_path)


def test_a_copy_that_is_synchronised_often_knows_more():
    rows = stream(6000, hours=24)
    found = CLAIMS["sync-interval"](rows, 0)
    (rare,), (often,), (live,) = found["5 h"], found["30 min"], found["live"]
    assert 0.55 < rare < often <= live + 0.02

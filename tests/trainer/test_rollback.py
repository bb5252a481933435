"""`scripts/rollback`, as an operator uses it: beside a trainer that runs, and where none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from runtime.ops import OpsServer
from runtime.ports import free_port
from schema.config import Config
from schema.config_file import dump_config
from tests.trainer.make import config
from tests.trainer.test_points import make
from trainer import rollback
from trainer.errors import UnknownPoint
from trainer.points import points_in
from trainer.process import choose, open_store, store_folder


@pytest.fixture
def deployed(tmp_path: Path) -> Config:
    """A deployment with points 1, 2 and 3, of steps 5, 9 and 12; nothing of it runs."""
    made = config(tmp_path / "run", ops_port=free_port())
    dump_config(made, tmp_path / "config.yaml")
    with closing(open_store(made)) as store:
        for step in (5, 9, 12):
            make(store, step)
    return made


@pytest.fixture
def running(deployed: Config) -> Iterator[list[Mapping[str, Any]]]:
    """Its trainer runs: what was asked of it."""
    asked: list[Mapping[str, Any]] = []

    def obey(given: Mapping[str, Any]) -> dict[str, Any]:
        chosen = choose(points_in(store_folder(deployed)), given["to"])
        asked.append(given)
        return {"number": chosen.number}

    with closing(open_store(deployed)):
        server = OpsServer("127.0.0.1", deployed.trainer.ops_port, lambda: True, commands={"rollback": obey})
        server.start()
        yield asked
        server.stop()


def call(folder: Path, *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(rollback.main)
    return CliRunner().invoke(app, [str(folder / "config.yaml"), *arguments])


def newest(settings: Config) -> tuple[int, int, int | None]:
    last = points_in(store_folder(settings))[-1]
    return last.number, last.step, last.returned_to


@pytest.mark.usefixtures("deployed")
def test_the_points_are_listed_and_stay(tmp_path: Path):
    result = call(tmp_path, "--list")
    assert [line[:7] for line in result.output.splitlines()] == ["point 1", "point 2", "point 3"]
    assert "step 9, 90 rows" in result.output


def test_without_any_point_it_says_so(tmp_path: Path):
    made = config(tmp_path / "run")
    dump_config(made, tmp_path / "config.yaml")
    assert call(tmp_path, "--list").output == "there is no recovery point yet\n"
    result = call(tmp_path)
    assert result.exit_code == 1
    assert "legal are none yet" in result.stderr


@pytest.mark.parametrize(("arguments", "step", "returned_to"), [((), 9, 2), (("--to", "1"), 5, 1)])
def test_where_no_trainer_runs_the_point_becomes_the_newest(
    deployed: Config, tmp_path: Path, arguments: tuple[str, ...], step: int, returned_to: int
):
    result = call(tmp_path, *arguments)
    assert result.exit_code == 0, result.output
    assert f"go on from step {step}" in result.output
    assert newest(deployed)[1:] == (step, returned_to)
    with closing(open_store(deployed)) as store:
        loaded = store.load()
    assert loaded is not None
    assert loaded.manifest.step == step
    assert f"a return to {returned_to}" in call(tmp_path, "--list").output


def test_a_trainer_that_runs_is_told_and_its_files_stay(
    deployed: Config, tmp_path: Path, running: list[Mapping[str, Any]]
):
    before = newest(deployed)
    result = call(tmp_path, "--to", "2")
    assert result.exit_code == 0, result.output
    assert result.output == "the trainer and all shards return to point 2, step 9\n"
    assert running == [{"to": 2}]
    assert newest(deployed) == before


def test_an_unknown_point_is_refused_with_those_that_there_are(deployed: Config, tmp_path: Path):
    before = newest(deployed)
    result = call(tmp_path, "--to", "7")
    assert result.exit_code == 1
    assert result.stderr == "rollback: point: 7; legal are 1, 2, 3\n"
    assert newest(deployed) == before


def test_a_trainer_that_runs_and_does_not_answer_is_named(deployed: Config, tmp_path: Path):
    with closing(open_store(deployed)):
        result = call(tmp_path)
    assert result.exit_code == 1
    assert (
        f"a trainer runs, but http://127.0.0.1:{deployed.trainer.ops_port}/command/rollback" in result.stderr
    )


def test_what_the_trainer_refuses_is_passed_on(deployed: Config, tmp_path: Path):
    def refuse(_: Mapping[str, Any]) -> dict[str, Any]:
        raise UnknownPoint(2, [3])

    with closing(open_store(deployed)):
        server = OpsServer(
            "127.0.0.1", deployed.trainer.ops_port, lambda: True, commands={"rollback": refuse}
        )
        server.start()
        result = call(tmp_path)
        server.stop()
    assert result.exit_code == 1
    assert "legal are 3" in result.stderr

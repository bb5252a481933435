"""`python -m trainer.rollback CONFIG [--to N]`: lists the recovery points, or returns to one of them.

A trainer that runs is told to. For one that does not, the point is made the newest: it goes on from there.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from runtime import logs
from runtime.command import run
from schema.config import Config
from schema.config_file import load_config
from trainer.errors import RecoveryError, TrainerError
from trainer.manifest import Manifest
from trainer.points import PointStore, points_in
from trainer.process import choose, open_store, store_folder

_SECONDS: Final = 30.0


def roll_back(config: Config, number: int | None) -> str:
    """Return to point `number`, by default the one before the newest; what was done, in words.

    Raises:
        UnknownPoint: there is none.
        RecoveryError: the trainer runs and did not obey, or the point is not whole.
    """
    chosen = choose(points_in(store_folder(config)), number)
    try:
        store = open_store(config)
    except RecoveryError:
        _tell(config, chosen)
        return f"the trainer and all shards return to point {chosen.number}, step {chosen.step}"
    return _offline(store, chosen)


def _offline(store: PointStore, chosen: Manifest) -> str:
    try:
        made = store.roll_back(chosen.number)
    finally:
        store.close()
    return f"point {made.number} is point {chosen.number} again; the trainer will go on from step {made.step}"


def _tell(config: Config, chosen: Manifest) -> None:
    host = config.console.hosts.get("trainer", config.ops_host)
    url = f"http://{host}:{config.trainer.ops_port}/command/rollback"
    try:
        answer = httpx.post(url, json={"to": chosen.number}, timeout=_SECONDS)
    except httpx.HTTPError as error:
        raise RecoveryError(f"a trainer runs, but {url} does not answer: {error}") from error
    if not answer.is_success:
        raise RecoveryError(f"{url}: {answer.status_code} {answer.text.strip()}")


def describe(points: list[Manifest]) -> str:
    """A line a point, the newest last."""
    lines = []
    for point in points:
        made = datetime.fromtimestamp(point.made_at / 1000, UTC).isoformat(" ", "seconds")
        back = "" if point.returned_to is None else f", a return to {point.returned_to}"
        lines.append(f"point {point.number}: {made}, step {point.step}, {point.rows} rows{back}")
    return "\n".join(lines) or "there is no recovery point yet"


def main(
    config: Annotated[Path, typer.Argument(help="The deployment's YAML file.")],
    to: Annotated[int | None, typer.Option(help="The point; by default the one before the newest.")] = None,
    *,
    show: Annotated[bool, typer.Option("--list", help="List the points, and change nothing.")] = False,
) -> None:
    """Return trainer and shards to an earlier recovery point; replicas follow."""
    logs.configure("rollback")
    loaded = load_config(config)
    if show:
        typer.echo(describe(points_in(store_folder(loaded))))
        return
    try:
        typer.echo(roll_back(loaded, to))
    except TrainerError as error:
        typer.echo(f"rollback: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run(main)

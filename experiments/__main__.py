"""The command line of the experiments: `python -m experiments CLAIM --data FOLDER`."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import track

from experiments import report
from experiments.claims import CLAIMS, Aucs
from experiments.data import LOGS, DataError, Stream

app = typer.Typer(add_completion=False)

Name = Literal["sync-interval", "collisions", "shard-loss"]


@app.command()
def main(
    claim: Annotated[
        Name,
        typer.Argument(help="Which claim of arXiv 2209.07663 to try."),
    ],
    data: Annotated[Path, typer.Option(help="A folder with kuairand/, movielens_small/ or both.")],
    out: Annotated[Path, typer.Option(help="Where the table and the plot go.")] = Path("run/experiments"),
    seeds: Annotated[int, typer.Option(help="How often to repeat, each time with another seed.", min=2)] = 5,
    rows: Annotated[int | None, typer.Option(help="Read only so many rows of each log.", min=500)] = None,
) -> None:
    """Try CLAIM on every log in DATA: a table on stdout, and both table and plot in OUT."""
    try:
        streams = _streams(data)
    except DataError as error:
        typer.echo(f"experiment: --data: {error}", err=True)
        sys.exit(1)
    found = []
    for stream in streams:
        used = stream if rows is None else stream.head(rows)
        by_seed = track(_tried(claim, used, seeds), f"{claim} on {stream.name}", seeds, transient=True)
        found.append(report.Found.of(stream.name, stream.tasks, list(by_seed)))
    out.mkdir(parents=True, exist_ok=True)
    table = report.markdown(found)
    (out / f"{claim}.md").write_text(table)
    report.plot(found, f"{claim}: {seeds} seeds, 95 % confidence", out / f"{claim}.svg")
    typer.echo(table)


def _tried(claim: Name, stream: Stream, seeds: int) -> Iterator[Aucs]:
    """What each seed finds, in their order; a process a core, since each of them computes in one thread."""
    workers = min(seeds, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(CLAIMS[claim], [stream] * seeds, range(seeds))


def _streams(data: Path) -> list[Stream]:
    there = [(data / folder, read) for folder, read in LOGS.values() if (data / folder).is_dir()]
    if not there:
        legal = " or ".join(f"{folder}/" for folder, _ in LOGS.values())
        raise DataError(f"{data} holds no log; legal is a folder with {legal}")
    return [read(folder) for folder, read in there]


if __name__ == "__main__":
    app()

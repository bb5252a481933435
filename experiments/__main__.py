"""The command line of the experiments: `python -m experiments CLAIM --data FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import track

from experiments import report
from experiments.claims import CLAIMS
from experiments.data import LOGS, DataError, Stream

app = typer.Typer(add_completion=False)


@app.command()
def main(
    claim: Annotated[
        Literal["sync-interval", "collisions", "shard-loss"],
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
        steps = track(range(seeds), f"{claim} on {stream.name}", transient=True)
        found.append(
            report.Found.of(stream.name, stream.tasks, [CLAIMS[claim](used, seed) for seed in steps])
        )
    out.mkdir(parents=True, exist_ok=True)
    table = report.markdown(found)
    (out / f"{claim}.md").write_text(table)
    report.plot(found, f"{claim}: {seeds} seeds, 95 % confidence", out / f"{claim}.svg")
    typer.echo(table)


def _streams(data: Path) -> list[Stream]:
    there = [(data / folder, read) for folder, read in LOGS.values() if (data / folder).is_dir()]
    if not there:
        legal = " or ".join(f"{folder}/" for folder, _ in LOGS.values())
        raise DataError(f"{data} holds no log; legal is a folder with {legal}")
    return [read(folder) for folder, read in there]


if __name__ == "__main__":
    app()

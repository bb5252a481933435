"""The operator's view of the shards: `scripts/ps stats|why ID|digest|checkpoint|restore`.

Asks running shards through the client, and replicas over HTTP; only `restore --from` works on files.
"""

# ruff: noqa: FBT002 - flags of a command line
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from parameter_server import messages
from parameter_server.client import ParameterClient
from parameter_server.errors import ParameterServerError
from parameter_server.offline import reroute
from parameter_server.replicas import Position, positions
from runtime.command import run
from schema.config import Config
from schema.config_file import load_config
from schema.errors import ConfigError
from schema.ids import VALUE_LIMIT, feature_id, slot_of

_PATIENCE_SECONDS: Final = 5.0
_MEBIBYTE: Final = 1 << 20
_ID_BITS: Final = 64

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Looks into the parameter server.")
ConfigOption = Annotated[Path, typer.Option("--config", help="The configuration, YAML.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
LOCAL: Final = Path("configs/local.yaml")


def _client(config: Config, patience: float = _PATIENCE_SECONDS) -> ParameterClient:
    """A client that does not wait for a shard for as long as a trainer would."""
    settings = config.parameter_server
    return ParameterClient(
        msgspec.structs.replace(settings, retry_seconds=min(patience, settings.retry_seconds))
    )


def _show(as_json: bool, values: Any, tables: Callable[[], Sequence[Table]]) -> None:  # noqa: FBT001
    if as_json:
        sys.stdout.write(json.dumps(values) + "\n")
        return
    console = Console()
    for table in tables():
        console.print(table)


def _grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    return table


@app.command()
def stats(config: ConfigOption = LOCAL, as_json: JsonOption = False) -> None:
    """Every shard in numbers: clock, steps, rows, tombstones, memory, dense versions, requests under way."""
    loaded = load_config(config)
    with _client(loaded) as client:
        shards = [
            msgspec.to_builtins(client.stats(shard)) | msgspec.to_builtins(client.health(shard))
            for shard in range(client.shards)
        ]

    def tables() -> list[Table]:
        state = [
            (s["index"], s["epoch"], s["clock"], _pairs(s["steps"]), _pairs(s["dense"]), s["requests"])
            for s in shards
        ]
        rows = [
            (s["index"], name, count, s["tombstones"][name], f"{s['bytes'][name] / _MEBIBYTE:,.1f}")
            for s in shards
            for name, count in s["rows"].items()
        ]
        return [
            _grid("shards", ["shard", "epoch", "clock", "steps", "dense", "requests"], state),
            _grid("tables", ["shard", "table", "rows", "tombstones", "MiB"], rows),
        ]

    _show(as_json, shards, tables)


def _pairs(values: dict[str, int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in values.items()) or "none"


@app.command()
def why(
    feature_id: Annotated[str, typer.Argument(metavar="ID", help="An id, or SLOT:VALUE.")],
    table: Annotated[str, typer.Option(help="The table.")] = "embedding",
    config: ConfigOption = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """What is known of one id: its row, width, state, last use and version, and which replicas have it."""
    loaded = load_config(config)
    wanted = _parse_id(feature_id)
    with _client(loaded) as client:
        row = client.why(table, wanted)
        shard = client.shard_of(wanted)
    replicas = [
        {"replica": at.replica, "position": at.position, "has_it": _has_it(row, at)}
        for at in positions(loaded.serving.replicas, shard)
    ]
    known = {
        "id": wanted,
        "slot": slot_of(wanted),
        "value": wanted % VALUE_LIMIT,
        "shard": shard,
        "table": table,
    }
    found = known | msgspec.to_builtins(row) | {"replicas": replicas}

    def tables() -> list[Table]:
        lines = [(name, _cell(value)) for name, value in found.items() if name != "replicas"]
        seen = [(r["replica"], r["position"] or "unreachable", r["has_it"]) for r in replicas]
        return [
            _grid(f"id {wanted}", ["what", "is"], lines),
            _grid("replicas", ["replica", "(epoch, clock)", "has this version"], seen),
        ]

    _show(as_json, found, tables)


def _cell(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return " ".join(f"{number:.4g}" for number in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _parse_id(text: str) -> int:
    slot, colon, value = text.partition(":")
    try:
        wanted = feature_id(int(slot), int(value) if value.isdecimal() else value) if colon else int(text)
    except ValueError:
        wanted = -1
    if not 0 <= wanted < 1 << _ID_BITS:
        raise ConfigError(f"ID: {text!r}; legal is a number below 2^64, or SLOT:VALUE such as 3:1234")
    return wanted


def _has_it(row: messages.RowIs, at: Position) -> str:
    """Whether a replica's clock has passed the last change of the row, or its removal."""
    if at.position is None:
        return "unknown"
    changed = row.version if row.version is not None else row.removed_at
    if at.position[0] != row.epoch:
        return "no, it is of another epoch"
    if changed is None:
        return "yes, nothing: it serves the first vector"
    return "yes" if at.position[1] >= changed else "not yet"


@app.command()
def digest(config: ConfigOption = LOCAL, as_json: JsonOption = False) -> None:
    """The content digest of every table of every shard, as replicas hold rows. Costs a pass over all rows."""
    loaded = load_config(config)
    names = [table.name for table in loaded.parameter_server.tables]
    with _client(loaded) as client:
        found = [
            {"shard": shard, "table": name, "clock": clock, "digest": f"{value:016x}"}
            for shard in range(client.shards)
            for name in names
            for clock, value in [client.digest(shard, name)]
        ]
    _show(as_json, found, lambda: [_grid("digests", list(found[0]), [list(f.values()) for f in found])])


@app.command()
def checkpoint(
    name: Annotated[str, typer.Argument(help="A name, by which it can be restored.")] = "",
    config: ConfigOption = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """Have every shard write a checkpoint now."""
    loaded = load_config(config)
    with _client(loaded, loaded.parameter_server.retry_seconds) as client:
        replies = [client.checkpoint(shard, name) for shard in range(client.shards)]
    _show_checkpoints(as_json, replies)


@app.command()
def restore(
    name: Annotated[str, typer.Argument(help="A checkpoint's name, to return running shards to.")] = "",
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Folders shard-I of all shards of another deployment, which is stopped."),
    ] = None,
    config: ConfigOption = LOCAL,
    as_json: JsonOption = False,
) -> None:
    """Return running shards to a checkpoint; or, with --from, make the checkpoints that shards start from."""
    loaded = load_config(config)
    if bool(name) == bool(sources):
        raise ConfigError("restore: legal is either a NAME or --from DIR (once for each shard's folder)")
    if sources:
        made = reroute(loaded.parameter_server, sources, Path(loaded.run_dir))
        lines = [{"shard": m.shard, "file": str(m.path), "clock": m.clock, "rows": m.rows} for m in made]
        rows = [list(line.values()) for line in lines]
        _show(as_json, lines, lambda: [_grid("restored", ["shard", "file", "clock", "rows"], rows)])
        return
    with _client(loaded, loaded.parameter_server.retry_seconds) as client:
        replies = [client.restore(shard, name) for shard in range(client.shards)]
    _show_checkpoints(as_json, replies)


def _show_checkpoints(as_json: bool, replies: Sequence[messages.CheckpointIs]) -> None:  # noqa: FBT001
    found = [{"shard": shard} | msgspec.to_builtins(reply) for shard, reply in enumerate(replies)]
    _show(as_json, found, lambda: [_grid("checkpoints", list(found[0]), [list(f.values()) for f in found])])


def main() -> None:
    """Run the command line; what an operator can mend is one line on stderr and status 2, or 1."""
    try:
        run(app)
    except (ParameterServerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()

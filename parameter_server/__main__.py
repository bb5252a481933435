"""The command line of a shard: `python -m parameter_server CONFIG.yaml --shard I`."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from parameter_server.errors import ParameterServerError
from parameter_server.process import ShardProcess
from runtime import logs
from schema.config_file import load_config
from schema.errors import ConfigError


def main(
    config: Annotated[Path, typer.Argument(help="The configuration, YAML.")],
    shard: Annotated[int, typer.Option(help="Which of parameter_server.shards to be, from 0.")],
) -> None:
    """Serve one shard of the parameter server until SIGTERM or Ctrl-C, then checkpoint and end."""
    logs.configure(f"shard-{shard}")
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        process = ShardProcess(load_config(config), shard)
    except (ConfigError, ParameterServerError, OSError) as error:
        typer.echo(f"shard {shard}: {error}", err=True)
        sys.exit(2)
    process.run(stop)


if __name__ == "__main__":
    typer.run(main)

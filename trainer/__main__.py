"""The command line of the trainer: `python -m trainer CONFIG.yaml`."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from runtime import logs
from schema.config_file import load_config
from schema.errors import ConfigError, HeadwaterError
from trainer.process import run

_log = logging.getLogger(__name__)


def main(config: Annotated[Path, typer.Argument(help="The configuration, YAML.")]) -> None:
    """Train from the samples topic until SIGTERM or Ctrl-C, then checkpoint, publish and end."""
    logs.configure("trainer")
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        loaded = load_config(config)
    except ConfigError as error:
        typer.echo(f"trainer: {error}", err=True)
        sys.exit(2)
    try:
        run(loaded, stop)
    except (HeadwaterError, OSError) as error:
        _log.exception("the trainer cannot go on")
        typer.echo(f"trainer: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)

"""The command line of the console: `python -m console CONFIG.yaml`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
from nicegui import ui

from console.app import install
from console.roles import Roles
from console.watch import Watch
from runtime import logs
from runtime.command import run
from schema.config_file import load_config

_log = logging.getLogger(__name__)


def main(config: Annotated[Path, typer.Argument(help="The configuration, YAML.")]) -> None:
    """Serve the console until SIGTERM or Ctrl-C."""
    logs.configure("console")
    loaded = load_config(config)
    install(Watch(Roles(loaded)))
    # uvicorn raises the signal again when it has stopped; the stop was asked for, so it is no failure
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    place = loaded.console
    _log.info("the console is at http://%s:%d", place.host, place.port)
    ui.run(
        host=place.host,
        port=place.port,
        title="Headwater",
        favicon="🌊",
        dark=True,
        reload=False,
        show=False,
        show_welcome_message=False,
        uvicorn_logging_level="warning",
        reconnect_timeout=10.0,
    )


if __name__ == "__main__":
    run(main)

"""Entry points: what an operator did wrong is one line on stderr and status 2, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from runtime.errors import PlumbingError
from schema.errors import ConfigError


def run(main: Callable[..., Any] | typer.Typer) -> None:
    """Run a function, or a group of commands, as this process's command line. Does not return.

    Exits 2 on a ConfigError, 1 on another error of the plumbing.
    """
    try:
        if isinstance(main, typer.Typer):
            main()
        else:
            app = typer.Typer(add_completion=False)
            app.command()(main)
            app()
    except ConfigError as error:
        sys.exit(_say(error, 2))
    except PlumbingError as error:
        sys.exit(_say(error, 1))


def _say(error: Exception, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status

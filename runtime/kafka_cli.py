"""`scripts/kafka`: runs the project's own broker by hand, with its data in a folder it is given."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from runtime import logs
from runtime.broker import LocalBroker, replace_this_process
from runtime.command import run
from runtime.errors import BrokerFailed
from schema.config import KafkaConfig
from schema.errors import ConfigError

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_DEFAULTS: Final = KafkaConfig()

Data = Annotated[Path, typer.Option(help="the folder of its messages, settings and log")]
Port = Annotated[int, typer.Option(help="where it listens on 127.0.0.1", min=1, max=65535)]
Heap = Annotated[int, typer.Option(help="its memory in MB", min=128)]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def start(data: Data, port: Port = _DEFAULTS.local_port, heap_mb: Heap = _DEFAULTS.heap_mb) -> None:
    """Start a broker that goes on after this command."""
    logs.configure("kafka")
    pid = _running(data)
    if pid is not None:
        raise ConfigError(f"data: a broker (process {pid}) already runs on {data}; legal is a folder without")
    broker = LocalBroker(KafkaConfig(local_port=port, heap_mb=heap_mb), data)
    broker.start(_START_SECONDS, detached=True)
    _pid_file(data).write_text(f"{broker.pid}\n")


@app.command()
def stop(data: Data) -> None:
    """Stop the broker that `start` started on the folder."""
    logs.configure("kafka")
    pid = _running(data)
    if pid is None:
        typer.echo(f"no broker runs on {data}")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while _running(data) is not None:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise BrokerFailed(f"the broker on {data} did not stop within {_STOP_SECONDS:g} s and was killed")
        time.sleep(0.05)
    typer.echo(f"stopped the broker on {data}")


@app.command()
def status(data: Data) -> None:
    """Say whether a broker runs on the folder; exit 1 if not."""
    pid = _running(data)
    typer.echo(f"no broker runs on {data}" if pid is None else f"a broker (process {pid}) runs on {data}")
    raise typer.Exit(1 if pid is None else 0)


@app.command("run")
def run_here(data: Data, port: Port = _DEFAULTS.local_port, heap_mb: Heap = _DEFAULTS.heap_mb) -> None:
    """Run a broker in the foreground, as this very process."""
    logs.configure("kafka")
    replace_this_process(KafkaConfig(local_port=port, heap_mb=heap_mb), data)


def _pid_file(data: Path) -> Path:
    return data / "kafka.pid"


def _running(data: Path) -> int | None:
    """The id of the broker that `start` started on `data`, if it still is one: ids are used again."""
    try:
        pid = int(_pid_file(data).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError):
        return None
    return pid if str(data.resolve() / "server.properties") in command.split("\0") else None


if __name__ == "__main__":
    run(app)

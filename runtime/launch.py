"""Starts a deployment's processes on this machine: `python -m runtime.launch CONFIG [--only ROLE …]`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated

import typer

from runtime import logs
from runtime.child import OnLine, print_line
from runtime.command import run
from runtime.kafka_jars import kafka_jars
from runtime.roles import process_specs, select
from runtime.supervisor import Supervisor
from schema.config import Config
from schema.config_file import dump_config, load_config, parse_override
from schema.errors import ConfigError

_log = logging.getLogger(__name__)


def supervise(config: Config, only: Iterable[str] = (), on_line: OnLine = print_line) -> Supervisor:
    """A supervisor, not yet started, of the processes of `config` or of those that `only` names.

    Writes the configuration to {run_dir}/config.yaml, which the processes read, and fetches the broker's
    files first if they are needed, so that no deadline covers a download.

    Raises:
        ConfigError: `only` names no process.
        KafkaJarsUnavailable: the broker's files cannot be fetched.
    """
    run_dir = Path(config.run_dir)
    config_file = run_dir / "config.yaml"
    specs = select(process_specs(config, config_file), only)
    run_dir.mkdir(parents=True, exist_ok=True)
    dump_config(config, config_file)
    if any(spec.name == "kafka" for spec in specs):
        kafka_jars()
    return Supervisor(specs, config.launch, run_dir, on_line)


def main(
    config: Annotated[Path, typer.Argument(help="the YAML configuration, such as configs/local.yaml")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[ROLE]...", help="more roles for --only")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="start only this role (shard) or process (shard-0)", metavar="ROLE"),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="set a key over the file's", metavar="KEY.PATH=VALUE")
    ] = None,
) -> None:
    """Start the roles, wait until they are ready, and restart what dies, until Ctrl-C."""
    logs.configure("launch")
    if more and not only:
        raise ConfigError(f"arguments: {' '.join(more)}; legal are one configuration, and roles after --only")
    loaded = load_config(config, dict(parse_override(text) for text in override or []))
    supervisor = supervise(loaded, [*(only or []), *(more or [])])
    _stop_on_signal(supervisor)
    if supervisor.start():
        _log.info("ready: %s; Ctrl-C stops all", ", ".join(supervisor.pids()))
    supervisor.wait()


def _stop_on_signal(supervisor: Supervisor) -> None:
    """Stop `supervisor`, from a thread of its own, on the first SIGINT or SIGTERM; later ones change nothing.

    A handler that raises would do so wherever the main thread is, also while it holds a lock; putting into a
    SimpleQueue is what a handler may always do.
    """
    asked: SimpleQueue[int] = SimpleQueue()

    def stop() -> None:
        asked.get()
        _log.info("stopping")
        supervisor.stop()

    threading.Thread(target=stop, name="stop on signal", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: asked.put(number))


if __name__ == "__main__":
    run(main)

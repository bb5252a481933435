"""Makes the topics of a configuration: `python -m runtime.topics CONFIG`. Ends at once where they exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime import logs
from runtime.command import run
from runtime.kafka import ensure_topics, wait_for_broker
from schema.config_file import load_config


def main(config: Annotated[Path, typer.Argument(help="the YAML configuration")]) -> None:
    """Make the topics that the configuration names, once its broker answers."""
    logs.configure("topics")
    loaded = load_config(config)
    wait_for_broker(loaded.kafka, loaded.launch.ready_seconds)
    ensure_topics(loaded.kafka)


if __name__ == "__main__":
    run(main)

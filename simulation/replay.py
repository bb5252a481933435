"""Replays a recorded log through Kafka: `python -m simulation.replay --dataset kuairand --path DIR`.

What a request is: consecutive exposures of one user on one tab, each within 60 s of the one before it, at
most 10 of them and no video twice; the request's time is its first exposure's (simulation/requests.py says
why 60 s). Every exposure is an impression of exactly one request. The log has no rank, so its positions are
missing; the tab is the surface. When actions happened is said in simulation/actions.py: a click a second
after its exposure, a like half-way through the play, a long view at its play time, all inside
`streaming.window_seconds` of the request. Histories are as of the request's time.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from runtime import logs
from schema.config import Config, StreamingConfig
from schema.config_file import load_config
from schema.errors import HeadwaterError
from schema.records import FeatureLog
from simulation import kuairand
from simulation.events import events, profiles
from simulation.log import Log
from simulation.pacing import Pacer, parse_speed
from simulation.progress import Report, progress
from simulation.topics import Topics

CLOSING_MARGIN_MS: Final = 1_000


class Dataset(enum.StrEnum):
    """The logs that can be replayed."""

    KUAIRAND = "kuairand"


class Summary(msgspec.Struct, frozen=True):
    """What a replay has sent."""

    exposures: int
    requests: int
    actions: int
    seconds: float


def replay(
    log: Log,
    config: Config,
    topics: Topics,
    pacer: Pacer,
    *,
    report: Report = lambda _done, _time: None,
    clock: Callable[[], float] = time.monotonic,
) -> Summary:
    """Sends the profiles, then the records of `log` in event-time order, then what closes the last windows.

    Raises:
        DeliveryFailed: the broker did not take a record.
        ConfigError: `streaming.window_seconds` is too short (see `simulation.actions`).
    """
    began = clock()
    exposures = requests = actions = last = 0
    planned = events(log, config)
    topics.announce(profiles(log))
    for event_time, record in planned:
        pacer.wait(event_time)
        topics.send(record)
        last = event_time
        if isinstance(record, FeatureLog):
            requests += 1
            exposures += len(record)
            report(exposures, event_time)
        else:
            actions += len(record.actions)
    topics.finish(_all_closed(last, config.streaming))
    return Summary(exposures, requests, actions, round(clock() - began, 3))


def _all_closed(last: int, streaming: StreamingConfig) -> int:
    """An event time that lets the window of a request at `last` close."""
    wait = streaming.window_seconds + streaming.disorder_seconds
    return last + int(wait * 1000) + CLOSING_MARGIN_MS


def _run(config: Config, log: Log, speed: float | None) -> Summary:
    topics = Topics.connect(config)
    try:
        with progress(len(log)) as report:
            return replay(log, config, topics, Pacer(speed), report=report)
    finally:
        topics.close()


def main(
    path: Annotated[Path, typer.Option(help="The folder of the log.")],
    dataset: Annotated[Dataset, typer.Option(help="Which log it is.")] = Dataset.KUAIRAND,
    speed: Annotated[str, typer.Option(help="max, or how many times real time.")] = "max",
    config: Annotated[Path, typer.Option(help="The deployment's configuration.")] = Path(
        "configs/replay.yaml"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first exposures of the log.")] = None,
) -> None:
    """Replay a recorded log as feed requests and actions, in event-time order.

    A request is a run of consecutive exposures of one user on one tab, each within 60 s of the one before
    it, at most 10 of them and no video twice; its time is its first exposure's. Actions follow their
    exposures: a click after 1 s, a like half-way through the play, a long view at its play time, the others
    between, and all of them before the request's window (streaming.window_seconds) closes.

    Progress goes to stderr; the last line of stdout is JSON: exposures, requests, actions, seconds.
    """
    logs.configure("replay")
    try:
        times_real_time = parse_speed(speed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--speed") from error
    try:
        settings = load_config(config)
        log = _READERS[dataset](path)
        summary = _run(settings, log.head(limit or len(log)), times_real_time)
    except HeadwaterError as error:
        typer.echo(f"replay: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"replayed {summary.exposures:,} exposures as {summary.requests:,} requests and "
        f"{summary.actions:,} actions in {summary.seconds:,.1f} s"
    )
    typer.echo(msgspec.json.encode(summary).decode())
    sys.stdout.flush()


_READERS: Final[dict[Dataset, Callable[[Path], Log]]] = {Dataset.KUAIRAND: kuairand.read}


if __name__ == "__main__":
    typer.run(main)

"""Simulated users against the serving replicas: `python -m simulation.simulate [--seconds N] [--rate R]`.

Owns the process: its options, signals, progress and last words.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from runtime import logs
from runtime.ops import OpsServer
from schema.config import Config
from schema.config_file import load_config
from schema.errors import HeadwaterError
from simulation.arms import Arms
from simulation.client import ReplicaClient
from simulation.connections import Connections, Http
from simulation.control import Control
from simulation.errors import OpsPortTaken
from simulation.truth import World
from simulation.visits import MOST_AT_ONCE, Visits

_log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 15.0
_REPORT_SECONDS: Final = 10.0


class Summary(msgspec.Struct, frozen=True):
    """What the simulated users did. `errors` counts failed tries, most of which a later try made good.

    `trends` are those that set in, each with its time in Unix ms.
    """

    feeds: int
    impressions: int
    actions: int
    errors: int
    click_rate: float
    born: int = 0
    trends: list[dict[str, Any]] = []


async def simulate(config: Config, rate: float, seconds: float | None, http: Http) -> Summary:
    """Runs the users for `seconds` (None: until SIGTERM or SIGINT), then delivers what is outstanding.

    Raises:
        ServingUnavailable: no replica took the items and users within `launch.ready_seconds`.
        Rejected: a replica refuses the items or the users.
    """
    arms = _arms(config, http)
    visits = Visits(config, World(config.simulation), arms)
    control = Control(visits, config, asyncio.get_running_loop())
    stop = _stop_on_signals()
    async with _ops(config, control):
        if await _unless(stop, visits.introduce(config.launch.ready_seconds)):
            _log.info("%g feeds a second", rate)
            if seconds is not None:
                asyncio.get_running_loop().call_later(seconds, stop.set)
            reporter = asyncio.create_task(_report(visits, arms))
            await visits.run(rate, stop)
            reporter.cancel()
            given_up = await visits.finish(DRAIN_SECONDS)
            if given_up:
                _log.warning(
                    "%d visits had actions that no replica took within %g s", given_up, DRAIN_SECONDS
                )
    _log.info("what was truly served is in %s", visits.ledger.write(Path(config.run_dir)))
    return _summary(visits, arms, control)


def _arms(config: Config, http: Http) -> Arms:
    live, frozen = (
        [
            f"http://{r.host}:{r.port}"
            for r in config.serving.replicas
            if (r.freeze_after_seconds is not None) is is_frozen
        ]
        for is_frozen in (False, True)
    )
    headers = {"x-api-key": config.serving.api_key} if config.serving.api_key else {}
    clients = [ReplicaClient(http, urls, headers=headers) for urls in (live, frozen) if urls]
    return Arms(config.simulation.seed, *clients)


@asynccontextmanager
async def _ops(config: Config, control: Control) -> AsyncIterator[None]:
    port = config.simulation.ops_port
    try:
        ops = OpsServer(config.ops_host, port, lambda: True, control.reports, control.commands)
    except OSError as error:
        raise OpsPortTaken(
            f"simulation.ops_port: {config.ops_host}:{port} cannot be listened on ({error.strerror}); "
            "legal is a free port of this machine"
        ) from error
    ops.start()
    try:
        yield
    finally:
        # its threads wait for this event loop, which must go on meanwhile
        await asyncio.to_thread(ops.stop)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether `work` was done before `stop` was set; it is cancelled otherwise."""
    working, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return False


async def _report(visits: Visits, arms: Arms) -> None:
    while True:
        await asyncio.sleep(_REPORT_SECONDS)
        counts = visits.counts
        _log.info(
            "%d feeds, %d impressions, %d actions, %d errors, %d visits skipped",
            counts.feeds,
            counts.impressions,
            counts.actions,
            arms.errors,
            counts.skipped,
        )


def _summary(visits: Visits, arms: Arms, control: Control) -> Summary:
    counts = visits.counts
    click_rate = round(counts.clicks / counts.impressions, 4) if counts.impressions else 0.0
    return Summary(
        counts.feeds, counts.impressions, counts.actions, arms.errors, click_rate, counts.born, control.trends
    )


async def _run(config: Config, rate: float, seconds: float | None) -> Summary:
    async with Connections(MOST_AT_ONCE) as http:
        return await simulate(config, rate, seconds, http)


def main(
    config: Annotated[Path, typer.Option(help="The deployment's configuration.")] = Path(
        "configs/local.yaml"
    ),
    seconds: Annotated[float | None, typer.Option(min=0.0, help="How long; for ever without.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Feeds a second; without, simulation.requests_per_second."),
    ] = None,
) -> None:
    """Run simulated users against the serving replicas: they ask for feeds, click, watch and like.

    Stops after --seconds or on SIGTERM, once all actions are delivered. The last line of stdout is JSON:
    feeds, impressions, actions, errors, click_rate.
    """
    logs.configure("simulate")
    try:
        settings = load_config(config)
        summary = asyncio.run(_run(settings, rate or settings.simulation.requests_per_second, seconds))
    except HeadwaterError as error:
        typer.echo(f"simulate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(msgspec.json.encode(summary).decode())
    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)

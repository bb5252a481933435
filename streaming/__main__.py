"""`python -m streaming CONFIG.yaml --worker I`: one worker of the joiner, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Final

import faust
import typer
from prometheus_client import REGISTRY

from runtime import logs
from runtime.kafka import ensure_topics, wait_for_broker
from runtime.ops import OpsServer
from schema.config import Config
from schema.config_file import load_config
from schema.errors import ConfigError, HeadwaterError
from streaming.app import make_app
from streaming.job import Job
from streaming.metrics import JoinerMetrics, report

_log = logging.getLogger("streaming")

_BROKER_SECONDS: Final = 30.0
_FINISH_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 5.0
_GC_OBJECTS: Final = 20_000


def main(
    config: Annotated[Path, typer.Argument(help="The deployment's YAML file.")],
    worker: Annotated[int, typer.Option(min=0, help="Which of the joiner's workers this is, from 0.")] = 0,
) -> None:
    """Join feature logs with actions into training samples."""
    logs.configure(f"joiner-{worker}")
    try:
        loaded = load_config(config)
    except ConfigError as error:
        _log.error("%s", error)
        raise typer.Exit(2) from error
    try:
        wait_for_broker(loaded.kafka, _BROKER_SECONDS)
        ensure_topics(loaded.kafka)
    except HeadwaterError as error:
        _log.error("%s", error)
        raise typer.Exit(1) from error
    raise typer.Exit(asyncio.run(_run(loaded, worker)))


async def _run(config: Config, worker: int) -> int:
    # millions of small records that hold no cycles: the collector need not look at them so often
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS)
    app = make_app(config, worker)
    job = Job(app, config, worker)
    REGISTRY.register(JoinerMetrics(job))
    ops = OpsServer(
        config.ops_host,
        config.streaming.ops_port + worker,
        lambda: job.assigned is not None and job.failure is None,
        {"joiner": lambda: report(job, worker)},
    )
    ops.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await app.start()
        await _first(stop.wait(), job.failed.wait(), app.wait_until_stopped())
        if app.crashed:
            job.fail(app.crash_reason or RuntimeError("Faust stopped by itself"))
        if job.failure is None:
            await job.finish(_FINISH_SECONDS)
    finally:
        job.leave()
        stopped = await _stop(app)
        await job.close()
        ops.stop()
    code = 0 if job.failure is None else 1
    if not stopped:
        logging.shutdown()
        os._exit(code)  # threads of the clients are still at it, and would be waited for
    return code


async def _stop(app: faust.App) -> bool:
    """Whether Faust stopped in time. It does not while Kafka is away; nothing is lost by leaving it so."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await app.stop()
    except TimeoutError:
        _log.warning("Kafka did not take leave within %g s; what it lacks is read again", _STOP_SECONDS)
        return False
    return True


async def _first(*waits: object) -> None:
    tasks = [asyncio.ensure_future(w) for w in waits]  # type: ignore[call-overload]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    typer.run(main)
    sys.exit(0)

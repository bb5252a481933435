"""The course of a demo: start the roles, feed them, let the loop come to rest, and take account."""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path
from typing import Final

import httpx

from demo import audit
from demo.collect import Collector, Snapshot
from demo.driver import Driver, replay, simulate
from demo.interest import Truth
from demo.plan import Plan, plan
from demo.report import Outcome
from demo.view import View
from runtime.launch import supervise
from runtime.ports import free_port
from runtime.roles import process_specs
from runtime.supervisor import Supervisor
from schema.config import Config

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5
_STALLED_SECONDS: Final = 90.0
_SYNC_SECONDS: Final = 60.0
TRUTH: Final = "truth.parquet"


class RoleLogs:
    """Keeps every role's lines in a file of its own, and the newest warnings for the view."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._trouble: deque[str] = deque(maxlen=20)

    def write(self, name: str, line: str) -> None:
        """Takes one line that a role printed."""
        with (self._folder / f"{name}.log").open("a") as file:
            file.write(line + "\n")
        if " WARNING " in line or " ERROR " in line:
            self._trouble.append(f"{name}: {line}")

    def trouble(self) -> list[str]:
        """The newest warnings, oldest first."""
        return list(self._trouble)


class Demo:
    """One run over `config`: the log in `data`, or simulated users for `seconds` where there is none.

    With `console`, its pages can be looked at meanwhile.
    """

    def __init__(
        self, config: Config, data: Path | None, seconds: float | None, view: View, *, console: bool
    ) -> None:
        compared = plan(config, seconds or 0.0, free_port()) if data is None else Plan(config)
        self._config, self._trend_after = compared.config, compared.trend_after
        self._run_dir = Path(config.run_dir)
        self._data = data
        self._seconds = seconds
        self._view = view
        kinds = {spec.name.partition("-")[0] for spec in process_specs(self._config, Path("-"))}
        self._roles = sorted(kinds if console else kinds - {"console"})

    def run(self, logs: RoleLogs) -> Outcome:
        """Runs to the end and stops everything that it started.

        Raises:
            PlumbingError: a role could not be started.
            DriverFailed: the replay or the simulator failed.
        """
        began = time.monotonic()
        self._view.say("Starting Kafka, shards, joiner, trainer and replica")
        supervisor = supervise(self._config, self._roles, on_line=logs.write)
        with supervisor, Collector(self._config) as collector:
            if "console" in self._roles:
                place = self._config.console
                self._view.say(f"The console is at http://{place.host}:{place.port}")
            self._view.say(f"Ready after {time.monotonic() - began:.0f} s; feeding the loop {self._source()}")
            driver = self._drive()
            try:
                self._watch(driver, supervisor, collector)
            finally:
                driver.stop(self._config.launch.stop_seconds)
            account = driver.account()
            exposures = audit.count_exposures(self._config.kafka)
            self._view.say(f"All {exposures:,} exposures are in Kafka; the loop works off what is left")
            self._drain(exposures, supervisor, collector)
            self._view.say("Comparing the replicas with the shards")
            matches = self._compare(collector)
            final = collector.snapshot(supervisor.restarts())
            self._view.show(final)
            letters = audit.dead_letters(self._config.kafka)
            self._view.say("Stopping")
        seconds = time.monotonic() - began
        mode = "simulated" if self._data is None else "replay"
        truth = None if self._data is not None else Truth.read(self._run_dir / TRUTH)
        return Outcome(mode, seconds, account, exposures, letters, matches, final, truth)

    def _source(self) -> str:
        return f"from {self._data}" if self._data else f"with simulated users for {self._seconds:g} s"

    def _drive(self) -> Driver:
        file, log = self._run_dir / "config.yaml", self._run_dir / "logs" / "driver.log"
        if self._data is not None:
            return replay(self._data, file, log)
        return simulate(self._seconds or 0, file, log)

    def _watch(self, driver: Driver, supervisor: Supervisor, collector: Collector) -> None:
        limit = self._seconds if self._data is not None else None
        began = time.monotonic()
        trend_after = self._trend_after
        while driver.running and (limit is None or time.monotonic() < began + limit):
            self._view.show(collector.snapshot(supervisor.restarts()))
            if trend_after is not None and time.monotonic() >= began + trend_after:
                trend_after = None
                trend = collector.inject_trend()
                self._view.say(f"A trend sets in: everybody now likes topic {trend['topic']}")
            time.sleep(_POLL_SECONDS)

    def _drain(self, exposures: int, supervisor: Supervisor, collector: Collector) -> None:
        """Waits until every exposure is trained, or nothing has moved for a while."""
        last, moved = Snapshot(), time.monotonic()
        while time.monotonic() - moved < _STALLED_SECONDS:
            snapshot = collector.snapshot(supervisor.restarts())
            self._view.show(snapshot)
            if snapshot.samples_trained >= exposures and (snapshot.trainer or {}).get("lag") == 0:
                return
            if snapshot.samples_trained != last.samples_trained:
                last, moved = snapshot, time.monotonic()
            time.sleep(_POLL_SECONDS)
        _log.warning("only %d of %d exposures are trained, and no more come", last.samples_trained, exposures)

    def _compare(self, collector: Collector) -> dict[str, bool]:
        """Has the replicas sync once more, and compares; a role that is being restarted gets time."""
        deadline = time.monotonic() + _SYNC_SECONDS
        while True:
            try:
                collector.sync_replicas(_SYNC_SECONDS)
                return audit.digests_match(self._config, collector.replica_digests())
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    _log.warning("a replica did not sync: %s", error)
                    return {f"shard-{i}": False for i in range(len(self._config.parameter_server.shards))}
                time.sleep(_POLL_SECONDS)

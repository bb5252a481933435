"""Kills a random role of the whole loop again and again under simulated users, and counts what that cost.

`python -m tests.soak.loop --seconds N`; prints one JSON line last and exits 1 where a feed was not answered by
either replica, a label was lost or doubled, replicas differ from shards at the end, or memory grew.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import psutil
import typer

from demo import audit
from demo.collect import Collector
from demo.driver import Driver, simulate
from demo.run import RoleLogs
from runtime.launch import supervise
from runtime.ports import free_port
from runtime.supervisor import Supervisor
from schema.codec import USER_ACTIONS
from schema.config import Config, ReplicaConfig
from schema.config_file import load_config
from tests.streaming.worker import View
from trainer.dedup import DuplicateFilter

ROLES = ("kafka", "topics", "shard", "joiner", "trainer", "replica")
KILL_SECONDS = 15.0
"""Between two kills; less in a run that is too short for every process to have its turn."""
LEAST_KILL_SECONDS = 5.0
QUIET_SECONDS = 15.0
"""Without kills at the end, so that what the last one left is seen to heal under load."""
PROBE_SECONDS = 0.2
PROBE_USERS = 1_000_000
STALLED_SECONDS = 120.0
MEMORY_GROWTH = 1.5
WARM_UP = 0.4
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"
PORTS = (
    "kafka.local_port",
    "streaming.ops_port",
    "trainer.ops_port",
    "simulation.ops_port",
    "serving.replicas.0.port",
    *(f"parameter_server.shards.{i}.{port}" for i in range(2) for port in ("port", "ops_port")),
)


def deployment(folder: Path, rate: float) -> Config:
    """The local deployment on free ports, with two replicas."""
    settings = {
        "run_dir": str(folder),
        "simulation.requests_per_second": rate,
        "kafka.heap_mb": 384,
        **{port: free_port() for port in PORTS},
    }
    config = load_config(LOCAL, settings)
    replicas = (*config.serving.replicas, ReplicaConfig(port=free_port()))
    return msgspec.structs.replace(config, serving=msgspec.structs.replace(config.serving, replicas=replicas))


class Probe:
    """Asks for a feed again and again, of the one replica and, where that fails, at once of the other."""

    def __init__(self, config: Config) -> None:
        self._http = httpx.Client(timeout=httpx.Timeout(2.0, connect=1.0))
        self._urls = [f"http://{r.host}:{r.port}/v1/feed" for r in config.serving.replicas]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self.asked = self.second = self.shown = 0
        self.unanswered: list[str] = []
        self.slowest = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._http.close()

    def _run(self) -> None:
        while not self._stop.wait(PROBE_SECONDS):
            began = time.monotonic()
            first = self.asked % len(self._urls)
            self.asked += 1
            problems = []
            for url in self._urls[first:] + self._urls[:first]:
                problem = self._ask(url)
                if problem is None:
                    break
                problems.append(problem)
            self.second += bool(problems)
            if len(problems) == len(self._urls):
                self.unanswered.append("; ".join(problems))
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _ask(self, url: str) -> str | None:
        """What is wrong with the answer."""
        try:
            answer = self._http.post(url, json={"user_id": PROBE_USERS + self.asked % 50})
        except httpx.TransportError as error:
            return repr(error)
        if answer.status_code != httpx.codes.OK:
            return f"{answer.status_code} {answer.text}"
        self.shown += len(answer.json()["items"])
        return None


class Killer:
    """Kills the next of a shuffled deck of all processes, if all are well: each once before any a second time.

    The deck is the same for a seed, and the run long enough for one deck at least.
    """

    def __init__(self, supervisor: Supervisor, collector: Collector, seconds: float, seed: int) -> None:
        self._supervisor, self._collector = supervisor, collector
        self._rng = random.Random(seed)
        self._deck: list[str] = []
        turns = (seconds - QUIET_SECONDS) / (len(self.pids()) + 1)
        self._every = max(LEAST_KILL_SECONDS, min(KILL_SECONDS, turns))
        self._due = time.monotonic() + self._every
        self.kills: Counter[str] = Counter()

    def pids(self) -> dict[str, int | None]:
        """The process id of each role; None while it does not run."""
        return {name: pid for name, pid in self._supervisor.pids().items() if name != "topics"}

    def trained(self) -> int:
        """Rows trained so far."""
        return self._collector.snapshot({}).samples_trained

    def step(self) -> None:
        """Kill if it is time."""
        if time.monotonic() < self._due:
            return
        pids = self.pids()
        snapshot = self._collector.snapshot(self._supervisor.restarts())
        ready = all(r is not None and r["ready"] for r in snapshot.replicas)
        if None in pids.values() or snapshot.trainer is None or not ready:
            return  # one failure at a time: what is said to be survived
        self._deck = self._deck or self._rng.sample(sorted(pids), len(pids))
        victim = self._deck.pop()
        pid = pids[victim]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        self.kills[victim] += 1
        self._due = time.monotonic() + self._every
        sys.stderr.write(f"soak: killed {victim} ({self.kills.total()}), {snapshot.samples_trained} rows\n")


class Memory:
    """The resident memory of each role over the run."""

    def __init__(self) -> None:
        self._early: dict[str, int] = defaultdict(int)
        self._late: dict[str, int] = defaultdict(int)

    def note(self, share: float, pids: dict[str, int | None]) -> None:
        """The memory now, `share` of the run over."""
        kept = self._early if share < WARM_UP else self._late
        for name, pid in pids.items():
            try:
                kept[name] = max(kept[name], 0 if pid is None else psutil.Process(pid).memory_info().rss)
            except psutil.NoSuchProcess:
                continue

    def growth(self) -> dict[str, float]:
        """By process, the most of the rest of the run over the most of its first part."""
        return {n: round(self._late[n] / early, 3) for n, early in self._early.items() if early}

    def most(self) -> dict[str, float]:
        """By process, in MB."""
        return {n: round(max(self._early[n], self._late[n]) / 1e6, 1) for n in self._early}


class Account:
    """What Kafka says: the labels due, those emitted, and the rows that a trainer should have trained."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._view = View(config.kafka)
        self._filter = DuplicateFilter()
        self._taken = self.rows = 0

    def poll(self) -> None:
        """Take in what is new."""
        self._view.poll()
        blocks = self._view.blocks
        for block in blocks[self._taken :]:
            self._filter.begin()
            fresh = self._filter.fresh(block)
            # a late block tells more of rows that have been trained
            self.rows += 0 if block.late_offset >= 0 else int(fresh.any(axis=1).sum())
            self._filter.trained()
        self._taken = len(blocks)

    def labels(self) -> dict[str, int]:
        """Labels due of every exposure in Kafka, and those lost and doubled."""
        exposures = audit.count_exposures(self._config.kafka)
        pairs = Counter((request, item, task) for request, item, task, _ in self._view.labels)
        due = exposures * len(self._config.tasks)
        return {
            "exposures": exposures,
            "labels": pairs.total(),
            "lost": max(0, due - len(pairs)),
            "doubled": pairs.total() - len(pairs),
            "emitted_again": self._view.filtered,
        }

    def actions(self) -> dict[str, int]:
        """The distinct actions in Kafka, and how many of those of a known request made no label positive."""
        topic = self._config.kafka.topics.user_actions
        found = {
            (a.request_id, a.item_id, a.kind)
            for batch in audit.records(self._config.kafka, topic, USER_ACTIONS)
            for a in getattr(batch, "actions", ())
        }
        pairs = {(request, item, task): label for request, item, task, label in self._view.labels}
        due = {
            (request, item, task.name)
            for request, item, kind in found
            for task in self._config.tasks
            if kind in task.actions and (request, item, task.name) in pairs
        }
        missed = sum(pairs[pair] != 1.0 for pair in due)
        return {"actions_in_kafka": len(found), "positives_due": len(due), "positives_lost": missed}

    def close(self) -> None:
        self._view.close()


def soak(seconds: float, rate: float, seed: int, folder: Path) -> dict[str, Any]:
    """The figures of one run."""
    config = deployment(folder, rate)
    logs = RoleLogs(folder / "logs")
    supervisor = supervise(config, ROLES, on_line=logs.write)
    with supervisor, Collector(config) as collector:
        driver = simulate(seconds, folder / "config.yaml", folder / "logs" / "driver.log")
        probe, memory = Probe(config), Memory()
        account = Account(config)
        try:
            killer = Killer(supervisor, collector, seconds, seed)
            while driver.running and not killer.trained():
                time.sleep(0.5)
            _under_load(seconds, driver, killer, probe, memory)
            said = driver.account()
            report = _drain(account, collector)
            matches = audit.digests_match(config, _synced(collector))
            letters = audit.dead_letters(config.kafka)
            labels, actions = account.labels(), account.actions()
        finally:
            driver.stop(20)
            account.close()
    return {
        "seconds": seconds,
        "kills": dict(killer.kills),
        "restarts": supervisor.restarts(),
        "feeds_asked": probe.asked,
        "feeds_of_the_other_replica": probe.second,
        "feeds_unanswered": len(probe.unanswered),
        "unanswered": probe.unanswered[:5],
        "slowest_feed_seconds": round(probe.slowest, 3),
        **labels,
        "impressions_taken": said["impressions"] + probe.shown,
        "rows_due": account.rows,
        "rows_trained": report["samples_trained"],
        "returns_to_a_recovery_point": report["returns"],
        "actions_taken": said["actions"],
        **actions,
        "dead_letters": letters,
        "digests_match": matches,
        "memory_growth": memory.growth(),
        "memory_mb": memory.most(),
    }


def _under_load(seconds: float, driver: Driver, killer: Killer, probe: Probe, memory: Memory) -> None:
    """The load to its end, with kills."""
    probe.start()
    began = time.monotonic()
    try:
        while driver.running:
            passed = time.monotonic() - began
            memory.note(passed / seconds, killer.pids())
            if passed < seconds - QUIET_SECONDS:
                killer.step()
            time.sleep(0.25)
    finally:
        probe.stop()


def _drain(account: Account, collector: Collector) -> dict[str, Any]:
    """Wait until the trainer has trained what the topic holds, and no more comes; its report."""
    last, moved = (-1, -1), time.monotonic()
    while time.monotonic() - moved < STALLED_SECONDS:
        account.poll()
        report = collector.snapshot({}).trainer
        state = (account.rows, report["samples_trained"] if report else -1)
        if state != last:
            last, moved = state, time.monotonic()
        elif report is not None and report["lag"] == 0 and state[0] <= state[1] and _quiet(moved):
            return report
        time.sleep(0.5)
    report = collector.snapshot({}).trainer
    if report is None:
        raise RuntimeError("the trainer is away, at the end of the run")
    return report


def _quiet(moved: float) -> bool:
    """Whether enough time has passed for windows to close and late actions to be worked off."""
    return time.monotonic() - moved > QUIET_SECONDS


def _synced(collector: Collector) -> list[list[dict[str, Any]]]:
    collector.sync_replicas(60)
    return collector.replica_digests()


def good(figures: dict[str, Any]) -> bool:
    """Whether a run shows what it should."""
    shard_died = any(name.startswith("shard") for name in figures["kills"])
    return (
        figures["feeds_unanswered"] == 0
        and figures["lost"] == figures["doubled"] == figures["positives_lost"] == 0
        and figures["rows_trained"] == figures["rows_due"]
        and (shard_died or not figures["forgotten_by_shards"])
        and all(figures["digests_match"].values())
        and max(figures["memory_growth"].values()) < MEMORY_GROWTH
    )


def main(
    seconds: Annotated[float, typer.Option(min=40)] = 600.0,
    rate: Annotated[float, typer.Option(min=1, help="feeds a second")] = 20.0,
    seed: Annotated[int, typer.Option(help="of the order of the kills")] = 2,
    keep: Annotated[Path | None, typer.Option(help="a folder to leave the run in")] = None,
) -> None:
    """Soak."""
    with tempfile.TemporaryDirectory() as folder:
        figures = soak(seconds, rate, seed, keep or Path(folder))
    sys.stdout.write(json.dumps(figures) + "\n")
    raise typer.Exit(0 if good(figures) else 1)


if __name__ == "__main__":
    typer.run(main)

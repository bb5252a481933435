"""Serving: a feed over HTTP at steady load, with and without deltas landing, beside its bare model compute.

A real broker, two shards and a replica, each a process. A feed has two stages: candidates are retrieved by a
structure that holds every item, then ranked. The bare compute is what the models themselves do for such a
feed, in this process: retrieve, look up the rows of its ids and score them, once for all candidates and once
for those that are shown (whose scores are logged); the features are made and collated beforehand. The bar is
over feeds one right after the other; what such feeds take at the pace of the load is measured, too, for a
processor that has slept and caches that others have used cost the models as much as they cost the replica.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from harness import Benchmark
from serve_sides.compute import Compute
from serve_sides.load import drive
from serve_sides.replica import Replica
from serve_sides.training import fill, trainer
from serve_sides.world import World

from parameter_server.client import ParameterClient
from runtime.launch import supervise
from runtime.ports import free_port
from schema.config import Config
from schema.config_file import load_config

_CONNECTIONS: Final = 16
_WARM_UP_SECONDS: Final = 6.0
_CAPACITY_SECONDS: Final = 6.0
_CAPACITY_CONNECTIONS: Final = 4
_SHARE_OF_ROUNDS: Final = 0.7
_LOCAL: Final = Path(__file__).parents[1] / "configs" / "local.yaml"
_PORTS: Final = (
    "kafka.local_port",
    "serving.replicas.0.port",
    *(f"parameter_server.shards.{i}.{port}" for i in range(2) for port in ("port", "ops_port")),
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How much of everything; see `main`."""

    items: int
    rows: int
    delta_rows: int
    rate: float
    seconds: float
    rounds: int


def settings(folder: Path) -> Config:
    """The local deployment on free ports."""
    return load_config(_LOCAL, {"run_dir": str(folder), **{port: free_port() for port in _PORTS}})


class Sides:
    """The replica under load with and without deltas, one stretch at a time.

    Args:
        traffic: the load.
        replica: under load.
        training: turns the pushes on and off.
    """

    def __init__(self, traffic: Traffic, replica: Replica, training: Callable[[bool], None]) -> None:
        self._traffic, self._replica, self._training = traffic, replica, training
        self.figures: dict[str, dict[str, float]] = {}

    def p99(self, name: str, *, deltas: bool) -> float:
        """Of a stretch, seconds; `figures` has the rest of it under `name`."""
        seconds = self._traffic.seconds
        self._training(deltas)
        time.sleep(2)  # the round of what the other side left has landed, or the first of this one
        clock, before = self._replica.clock(), self._replica.report()["rounds"]
        load = drive(self._replica.port, seconds, _CONNECTIONS, self._traffic.rate)
        landed, rounds = self._replica.clock() - clock, self._replica.report()["rounds"] - before
        self._training(False)
        if load.failed:
            raise RuntimeError(f"{load.failed} of {len(load.latencies)} requests failed")
        if bool(landed) != deltas or rounds < _SHARE_OF_ROUNDS * seconds:
            raise RuntimeError(f"{name}: {landed} clocks in {rounds} rounds have landed")
        self.figures[name] = {
            **{f"p{p}": load.percentile(p) for p in (50, 90, 99)},
            "requests_per_second": len(load.latencies) / seconds,
            "latest_sent_seconds": load.behind,
            "rounds": rounds,
            "clocks_landed": landed,
        }
        return self.figures[name]["p99"]


def measure(bench: Benchmark, traffic: Traffic, folder: Path) -> None:
    """All of it."""
    config, world = settings(folder), World(traffic.items)
    rows = world.row_ids(config)
    with (
        (folder / "roles.log").open("w") as log,
        supervise(
            config, ["kafka", "topics", "shard", "replica"], lambda name, line: print(name, line, file=log)
        ),
        ParameterClient(config.parameter_server) as client,
        trainer(config, rows, traffic.delta_rows, traffic.items) as training,
    ):
        fill(client, config, rows, traffic.rows, traffic.items)
        replica = Replica(config)
        bench.say(f"{traffic.items:,} items, {traffic.rows:,} rows; telling the replica")
        replica.tell(world)
        drive(replica.port, _WARM_UP_SECONDS, _CONNECTIONS, traffic.rate)
        _alternate(bench, traffic, Sides(traffic, replica, training), Compute(config, world, client))
        flat_out = drive(replica.port, _CAPACITY_SECONDS, _CAPACITY_CONNECTIONS, None)
        bench.measured["most_requests_per_second"] = len(flat_out.latencies) / _CAPACITY_SECONDS
        report = replica.report()
        bench.measured |= {name: report[name] for name in ("audit", "shown", "retrieval")}


def _alternate(bench: Benchmark, traffic: Traffic, under_load: Sides, compute: Compute) -> None:
    sides = {
        "p99_without_deltas_seconds": lambda: under_load.p99("without", deltas=False),
        "p99_with_deltas_seconds": lambda: under_load.p99("with", deltas=True),
        "compute_p50_seconds": compute.seconds,
        "compute_paced_p50_seconds": lambda: compute.paced_seconds(traffic.rate),
    }
    results = []
    for _ in range(traffic.rounds):
        (result,) = bench.alternate(sides, 1)
        figures = under_load.figures
        result["p50_without_deltas_seconds"] = figures["without"]["p50"]
        result["p50_with_deltas_seconds"] = figures["with"]["p50"]
        result["p50_over_paced_compute"] = figures["without"]["p50"] / result["compute_paced_p50_seconds"]
        results.append(result)
        bench.measured.setdefault("rounds", []).append({**result, **{k: dict(v) for k, v in figures.items()}})
    for name in results[0]:
        values = [r[name] for r in results]
        bench.measured[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    bench.ratio_bar(
        "p99_with_deltas", results, "p99_with_deltas_seconds", "p99_without_deltas_seconds", at_most=1.5
    )
    bench.ratio_bar(
        "p50_over_compute", results, "p50_without_deltas_seconds", "compute_p50_seconds", at_most=2
    )


def main(
    *,
    items: Annotated[int, typer.Option(help="Items of the catalogue.", min=1000)] = 5000,
    rows: Annotated[int, typer.Option(help="Rows of each table.", min=1)] = 200_000,
    delta_rows: Annotated[int, typer.Option(help="Rows that change a second.", min=10)] = 5000,
    rate: Annotated[float, typer.Option(help="Feeds a second.", min=1)] = 80.0,
    seconds: Annotated[float, typer.Option(help="A side's time in a round.", min=1)] = 15.0,
    rounds: Annotated[int, typer.Option(help="Alternations.", min=3)] = 5,
) -> None:
    """Measure."""
    torch.set_num_threads(1)
    bench = Benchmark("serve")
    traffic = Traffic(items, rows, delta_rows, rate, seconds, rounds)
    with tempfile.TemporaryDirectory() as folder:
        measure(bench, traffic, Path(folder))
    bench.measured |= {name: value for name, value in asdict(traffic).items() if name != "rounds"}
    bench.finish()


if __name__ == "__main__":
    typer.run(main)

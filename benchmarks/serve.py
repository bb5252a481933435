"""Serving: a feed over HTTP at steady load, with and without deltas landing, beside its bare model compute.

A real broker, two shards and a replica, each a process. A feed has two stages: candidates are retrieved by a
structure that holds every item, then ranked. The bare compute is what the models themselves do for such a
feed, in this process: retrieve, look up the rows of its ids and score them, once for all candidates and once
for those that are shown (whose scores are logged); the features are made and collated beforehand.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from harness import Benchmark

from models.batch import Batch, Collator
from models.dense import RANKER, dump_payload
from models.heads import Heads
from models.retrieval.learning import StructureLearner
from models.retrieval.model import DeepRetrieval
from models.retrieval.shipping import RETRIEVAL, STRUCTURE, Shipper
from parameter_server.client import ParameterClient
from parameter_server.replica import ReplicaTables
from runtime.launch import supervise
from runtime.ports import free_port
from schema.config import Config
from schema.config_file import load_config
from schema.features import FeatureBuilder, Moment
from schema.ids import feature_id
from schema.records import Profile
from serving.parameters import Dense, Parameters
from serving.ranker import scores
from serving.replica import new_model
from serving.retrieval import Retriever
from serving.structure import Updates

USERS = 2000
CONNECTIONS = 16
ROUNDS = 5
PUSHES = 10
"""Pushes a second."""
CHUNK = 500
WAIT_SECONDS = 120.0
WARM_UP_SECONDS = 6.0
CAPACITY_SECONDS = 6.0
CAPACITY_CONNECTIONS = 4
SHARE_OF_ROUNDS = 0.7
LOCAL = Path(__file__).parents[1] / "configs" / "local.yaml"
HEAD = (
    b"POST /v1/feed HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
PORTS = (
    "kafka.local_port",
    "serving.replicas.0.port",
    *(f"parameter_server.shards.{i}.{port}" for i in range(2) for port in ("port", "ops_port")),
)


class World:
    """Items, users and what they did, the same for the replica and for the bare compute."""

    def __init__(self, items: int) -> None:
        rng = random.Random(0)
        self.now = time.time_ns() // 1_000_000
        self.items = [self._item(i, rng) for i in range(items)]
        self.users = [
            Profile("user", u, self.now, {"profile": (f"region_{u % 10}", f"age_{u % 7}")}, {})
            for u in range(USERS)
        ]
        self.histories = {u: [rng.randrange(items) for _ in range(50)] for u in range(USERS)}

    def _item(self, number: int, rng: random.Random) -> Profile:
        fields: dict[str, tuple[int | str, ...]] = {
            "author": (rng.randrange(1000),),
            "tag": tuple(rng.sample(range(50), 2)),
            "type": ("NORMAL",),
        }
        return Profile("item", number, self.now, fields, {"duration_seconds": rng.uniform(5, 60)})

    def row_ids(self, config: Config) -> np.ndarray:
        """Every id of an item or a user that a feed may look up, uint64."""
        builder = FeatureBuilder(config.features)
        encoded = [builder.item(p.id, p) for p in self.items] + [builder.user(p.id, p) for p in self.users]
        found = {i for e in encoded for slot in range(len(e.ids)) for i in e.slot(slot)}
        return np.array(sorted(found), np.uint64)


@dataclass
class Load:
    """Latencies in seconds of the requests of one stretch, and how late the latest was sent."""

    latencies: list[float] = field(default_factory=list)
    behind: float = 0.0
    failed: int = 0

    def percentile(self, percent: float) -> float:
        """Of the latencies."""
        return float(np.percentile(self.latencies, percent))


class FeedConnection:
    """One kept-alive HTTP connection that costs the caller next to nothing."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def feed(self, user: int) -> int:
        """Ask for a feed; the status."""
        body = b'{"user_id":%d}' % user
        self._socket.sendall(HEAD % len(body) + body)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        top, _, rest = data.partition(b"\r\n\r\n")
        length = int(top.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(rest) < length:
            rest += self._more()
        return int(top[9:12])

    def _more(self) -> bytes:
        part = self._socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the replica closed the connection")
        return part

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def drive(port: int, seconds: float, connections: int, rate: float | None) -> Load:
    """Feeds for `seconds`: `rate` a second at even distances, or as fast as `connections` get them."""
    load, lock = Load(), threading.Lock()
    began = time.perf_counter()
    turns: Iterator[int] = iter(range(10**9 if rate is None else int(seconds * rate)))

    def work(number: int) -> None:
        connection, rng = FeedConnection(port), random.Random(number)
        try:
            while time.perf_counter() < began + seconds:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                due = time.perf_counter() if rate is None else began + turn / rate
                time.sleep(max(0.0, due - time.perf_counter()))
                sent = time.perf_counter()
                status = connection.feed(rng.randrange(USERS))
                load.latencies.append(time.perf_counter() - sent)
                load.failed += status != 200
                load.behind = max(load.behind, sent - due)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


class Published:
    """Dense weights of both stages and a structure of the items, as a trainer publishes them."""

    def __init__(self, config: Config, items: int) -> None:
        assert config.retrieval is not None  # noqa: S101 - configs/local.yaml has it
        torch.manual_seed(0)
        self._model = new_model(config)
        retrieval = config.retrieval
        dim = next(t.dim for t in config.parameter_server.tables if t.name == retrieval.table) - 1
        self._module, self._learner = DeepRetrieval(retrieval, dim), StructureLearner(retrieval)
        self._learner.paths(np.arange(items))
        self._shipper = Shipper(self._learner.structure)
        self._items, self._moved = items, 0

    def move(self, count: int) -> None:
        """Put the next `count` items where others are, as an M-step would."""
        structure = self._learner.structure
        items = np.unique((self._moved + np.arange(count)) % self._items)
        self._moved += count
        others = structure.rows_of((items * 31 + self._moved) % self._items)
        structure.assign(items, structure.paths_at(others))

    def publish(self, client: ParameterClient, step: int) -> None:
        """All of it as version `step`."""
        for name, payload in self._shipper.payloads(dump_payload(self._module)):
            client.put_dense(name, step, step, payload)
        client.put_dense(RANKER, step, step, dump_payload(self._model))


def push_when_told(told: Connection, config: Config, rows: np.ndarray, a_second: int, items: int) -> None:
    """A process that trains: while told True it pushes `a_second` rows a table, and publishes, a second."""
    rng = np.random.default_rng(3)
    published = Published(config, items)
    dims = {table.name: table.dim for table in config.parameter_server.tables}
    with ParameterClient(config.parameter_server) as client:
        step, on, beat = 10**6, False, time.monotonic()
        while True:
            if told.poll(0 if on else None):
                on = told.recv()
                if on is None:
                    return
                beat = time.monotonic()
                continue
            ids = np.sort(rng.choice(rows, a_second // PUSHES, replace=False))
            gradients = {
                table: (ids, rng.normal(scale=0.01, size=(len(ids), dim)).astype(np.float32))
                for table, dim in dims.items()
            }
            step += 1
            client.push("bench", step, gradients, 0, [])
            if step % PUSHES == 0:
                published.move(items // 100)
                published.publish(client, step)
            beat += 1 / PUSHES
            time.sleep(max(0.0, beat - time.monotonic()))


@contextmanager
def trainer(config: Config, rows: np.ndarray, a_second: int, items: int) -> Iterator[Callable[[bool], None]]:
    """Runs `push_when_told` beside this process; what turns it on and off."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=push_when_told, args=(theirs, config, rows, a_second, items), daemon=True)
    child.start()
    try:
        yield ours.send
    finally:
        ours.send(None)
        child.join(30)
        if child.is_alive():
            child.kill()


class Replica:
    """The replica under load."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.port = config.serving.replicas[0].port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)

    def report(self) -> dict[str, Any]:
        """What it says of itself."""
        found: dict[str, Any] = self.http.get("/report/replica").raise_for_status().json()
        return found

    def clock(self) -> int:
        """The sum of its shards' clocks."""
        return sum(clock for _, clock in self.report()["clocks"])

    def tell(self, world: World) -> None:
        """Announce the world, and wait until it serves it."""
        for start in range(0, len(world.items), CHUNK):
            self._post("/v1/items", items=[_body(p, "item_id") for p in world.items[start : start + CHUNK]])
        for start in range(0, USERS, CHUNK):
            self._post("/v1/users", users=[_body(p, "user_id") for p in world.users[start : start + CHUNK]])
        for user, items in world.histories.items():
            actions = [
                {"request_id": "before", "item_id": i, "kind": kind, "event_time": world.now}
                for kind in ("long_view", "like")
                for i in items[:30]
            ]
            self._post("/v1/actions", user_id=user, actions=actions)
        self._until(lambda r: r["items"] >= len(world.items) and r["users"] >= USERS)
        self._until(lambda r: r["candidates"] >= self.config.serving.candidates and r["dense_version"] > 0)
        self._until(lambda r: r["retrieval"]["items"] >= len(world.items))

    def _post(self, path: str, **body: object) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while (answer := self.http.post(path, json=body)).status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.1)
        answer.raise_for_status()

    def _until(self, done: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not done(report := self.report()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replica does not serve the world after {WAIT_SECONDS} s: {report}")
            time.sleep(0.2)


def _body(profile: Profile, key: str) -> dict[str, Any]:
    fields = {name: list(values) for name, values in profile.fields.items()}
    return {key: profile.id, "fields": fields, "numbers": dict(profile.numbers)}


class Compute:
    """The bare model compute of feeds like those of the replica."""

    def __init__(self, config: Config, world: World, client: ParameterClient) -> None:
        server = config.parameter_server
        assert config.retrieval is not None  # noqa: S101 - configs/local.yaml has it
        builder, collator = FeatureBuilder(config.features), Collator(config.features)
        updates = Updates(config, config.retrieval, lambda i: builder.item(i, world.items[i]))
        self._parameters = Parameters(
            ReplicaTables(server), len(server.shards), [t.name for t in server.tables], updates
        )
        deltas = [client.delta(shard, None) for shard in range(len(server.shards))]
        self._model = new_model(config).eval()
        learned = updates.follow(_dense(client, RETRIEVAL), lambda: _dense(client, STRUCTURE))
        self._parameters.replace(deltas, Dense(1, 1, self._model, learned))
        self._heads = Heads.of(config)
        self._retriever = Retriever(config, config.retrieval, self._parameters)
        serving = config.serving
        self._retrieved = round(serving.candidates * (1 - serving.recent_share - serving.popular_share))
        rng = random.Random(5)
        self._feeds: list[tuple[Moment, tuple[Batch, Batch]]] = []
        for user in rng.sample(range(USERS), 200):
            history = world.histories[user]
            moment = Moment(
                world.now, 0, {"watched": history, "long_viewed": history[:30], "liked": history[:30]}
            )
            who = builder.user(user, world.users[user])
            chosen = rng.sample(world.items, config.serving.candidates)
            items = [builder.item(p.id, p) for p in chosen]
            shown = items[: config.serving.feed_size]
            self._feeds.append(
                (
                    moment,
                    (
                        collator.collate([builder.build(who, moment, items)], [len(items)]),
                        collator.collate([builder.build(who, moment, shown)], [len(shown)]),
                    ),
                )
            )

    def seconds(self) -> float:
        """The median of a feed."""
        took = []
        for moment, batches in self._feeds * 5:
            start = time.perf_counter()
            self._retriever.find(0, moment.histories, self._retrieved)
            for batch in batches:
                reading = self._parameters.read(batch.ids)
                scores(self._heads, self._model, batch, reading.embeddings)
            took.append(time.perf_counter() - start)
        return statistics.median(took)


def _dense(client: ParameterClient, name: str) -> bytes:
    found = client.get_dense(name)
    assert found is not None  # noqa: S101 - `fill` has published it
    return found.payload


def settings(folder: Path) -> Config:
    """The local deployment on free ports."""
    return load_config(LOCAL, {"run_dir": str(folder), **{port: free_port() for port in PORTS}})


def fill(client: ParameterClient, config: Config, ids: np.ndarray, rows: int, items: int) -> None:
    """`ids` and others up to `rows` rows a table, dense weights, and a structure of `items` items."""
    others = np.array([feature_id(999, i) for i in range(max(0, rows - len(ids)))], np.uint64)
    rng = np.random.default_rng(1)
    for step, part in enumerate(np.array_split(np.concatenate([ids, others]), 1 + rows // 20_000), start=1):
        gradients = {
            table.name: (part, rng.normal(size=(len(part), table.dim)).astype(np.float32))
            for table in config.parameter_server.tables
        }
        client.push("filler", step, gradients, 0, [])
    Published(config, items).publish(client, 1)


def measure(bench: Benchmark, arguments: argparse.Namespace, folder: Path) -> None:
    """All of it."""
    config, world = settings(folder), World(arguments.items)
    rows = world.row_ids(config)
    with (
        (folder / "roles.log").open("w") as log,
        supervise(
            config, ["kafka", "topics", "shard", "replica"], lambda name, line: print(name, line, file=log)
        ),
        ParameterClient(config.parameter_server) as client,
        trainer(config, rows, arguments.delta_rows, arguments.items) as training,
    ):
        fill(client, config, rows, arguments.rows, arguments.items)
        replica = Replica(config)
        bench.say(f"{arguments.items:,} items, {arguments.rows:,} rows; telling the replica")
        replica.tell(world)
        drive(replica.port, WARM_UP_SECONDS, CONNECTIONS, arguments.rate)
        _rounds(bench, arguments, replica, Compute(config, world, client), training)
        flat_out = drive(replica.port, CAPACITY_SECONDS, CAPACITY_CONNECTIONS, None)
        bench.measured["most_requests_per_second"] = len(flat_out.latencies) / CAPACITY_SECONDS
        report = replica.report()
        bench.measured |= {name: report[name] for name in ("audit", "shown", "retrieval")}


def _rounds(
    bench: Benchmark,
    arguments: argparse.Namespace,
    replica: Replica,
    compute: Compute,
    training: Callable[[bool], None],
) -> None:
    figures: dict[str, dict[str, float]] = {}

    def side(name: str, *, deltas: bool) -> Callable[[], float]:
        def run() -> float:
            training(deltas)
            time.sleep(2)  # the round of what the other side left has landed, or the first of this one
            clock, before = replica.clock(), replica.report()["rounds"]
            load = drive(replica.port, arguments.seconds, CONNECTIONS, arguments.rate)
            landed, rounds = replica.clock() - clock, replica.report()["rounds"] - before
            training(False)
            if load.failed:
                raise RuntimeError(f"{load.failed} of {len(load.latencies)} requests failed")
            if bool(landed) != deltas or rounds < SHARE_OF_ROUNDS * arguments.seconds:
                raise RuntimeError(f"{name}: {landed} clocks in {rounds} rounds have landed")
            figures[name] = {
                **{f"p{p}": load.percentile(p) for p in (50, 90, 99)},
                "requests_per_second": len(load.latencies) / arguments.seconds,
                "latest_sent_seconds": load.behind,
                "rounds": rounds,
                "clocks_landed": landed,
            }
            return figures[name]["p99"]

        return run

    sides = {
        "p99_without_deltas_seconds": side("without", deltas=False),
        "p99_with_deltas_seconds": side("with", deltas=True),
        "compute_p50_seconds": compute.seconds,
    }
    results = []
    for _ in range(arguments.rounds):
        (result,) = bench.alternate(sides, 1)
        result["p50_without_deltas_seconds"] = figures["without"]["p50"]
        result["p50_with_deltas_seconds"] = figures["with"]["p50"]
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


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--delta-rows", type=int, default=5000, help="rows that change a second")
    parser.add_argument("--rate", type=float, default=80.0, help="feeds a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="a side's time in a round")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Benchmark("serve")
    with tempfile.TemporaryDirectory() as folder:
        measure(bench, arguments, Path(folder))
    bench.measured |= {k: v for k, v in vars(arguments).items() if k != "rounds"}
    bench.finish()


if __name__ == "__main__":
    main()

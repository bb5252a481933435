"""The join against the textbook join on a Faust Table and a Faust agent that only reads, on one broker.

Also its memory by open request and its late lookups. `--requests N` shrinks it.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import httpx
import msgspec
import typer

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from harness import Benchmark  # noqa: E402

from runtime.broker import LocalBroker  # noqa: E402
from runtime.kafka import ensure_topics, producer  # noqa: E402
from runtime.ports import free_port  # noqa: E402
from schema.codec import FEATURE_LOGS, USER_ACTIONS, Codec  # noqa: E402
from schema.config import Config, KafkaConfig, SamplingConfig, StreamingConfig, TopicConfig, TopicsConfig  # noqa: E402
from schema.config_file import dump_config, load_config  # noqa: E402
from schema.ids import partition_of, user_key  # noqa: E402
from schema.records import (  # noqa: E402
    Action,
    ActionBatch,
    FeatureLog,
    Features,
    Heartbeat,
    IdColumn,
    ModelVersion,
    column,
)
from streaming.counts import Counts  # noqa: E402
from streaming.late import MemoryStore  # noqa: E402
from streaming.partition import Message, Partition, Timing  # noqa: E402
from streaming.rocks import RocksStore  # noqa: E402
from streaming.rules import Rules  # noqa: E402
from streaming.sampling import Sampler  # noqa: E402
from streaming.watermark import Side  # noqa: E402

IMPRESSIONS = 10
ACTIONS = 6
WINDOW_MS = 60_000
STEP_MS = 5
BASE = 1_700_000_000_000
MEMORY_REQUESTS = 20_000


def feature_log(rng: random.Random, number: int) -> FeatureLog:
    """A request of 10 impressions with 6 features of the user and 5 of each item."""
    user = rng.randrange(10_000)
    items = rng.sample(range(1_000_000), IMPRESSIONS)
    features = Features(
        context=tuple(IdColumn(slot, column([slot << 48 | user], "<u8")) for slot in range(1, 7)),
        items=tuple(IdColumn(s, column([s << 48 | i for i in items], "<u8")) for s in range(10, 15)),
        item_dense=column([0.5] * 2 * IMPRESSIONS, "<f4"),
    )
    return FeatureLog(
        f"{number:016x}", user, BASE + number * STEP_MS, 0, ModelVersion(), column(items, "<i8"),
        column(range(IMPRESSIONS), "<u2"), features, column([0.1] * 3 * IMPRESSIONS, "<f4"),
    )  # fmt: skip


def traffic(requests: int) -> tuple[list[FeatureLog], list[ActionBatch]]:
    """The requests, and ACTIONS actions of each within its window, both in order of event time."""
    rng = random.Random(1)
    logs = [feature_log(rng, i) for i in range(requests)]
    actions = []
    for log in logs:
        items = log.item_ids().tolist()
        for _ in range(ACTIONS):
            at = log.event_time + rng.randrange(WINDOW_MS // 2)
            kind = rng.choice(("click", "long_view", "like"))
            actions.append(ActionBatch(log.user_id, (Action(log.request_id, rng.choice(items), kind, at),)))
    actions.sort(key=lambda batch: batch.actions[0].event_time)
    return logs, actions


def produce(
    kafka: KafkaConfig, topic: TopicConfig, codec: Codec[Any], records: Sequence[Any], size: int
) -> None:
    """`records` in envelopes of `size`, and a heartbeat at the end of each partition."""
    out = producer(kafka, linger_ms=50, batch_size=256 << 10)
    waiting: dict[int, list[Any]] = {p: [] for p in range(topic.partitions)}
    for record in records:
        partition = partition_of(record.user_id, topic.partitions)
        waiting[partition].append(record)
        if len(waiting[partition]) == size:
            out.send(
                topic.name,
                codec.encode(waiting[partition]),
                key=user_key(record.user_id),
                partition=partition,
            )
            waiting[partition] = []
    end = [Heartbeat(BASE + 10 * len(records) * STEP_MS + 100 * WINDOW_MS)]
    for partition, rest in waiting.items():
        for some in (rest, end) if rest else (end,):
            out.send(topic.name, codec.encode(some), key=b"0", partition=partition)
    out.flush(timeout=120)
    out.close()


class Sides:
    """One broker with the records in both forms, and what reads them."""

    def __init__(self, folder: Path, port: int, requests: int, seconds: float) -> None:
        self._folder, self._seconds, self._requests = folder, seconds, requests
        self._kafka = KafkaConfig(bootstrap=f"127.0.0.1:{port}")
        self._forms: dict[int, KafkaConfig] = {}
        logs, actions = traffic(requests)
        for size in (1, 64):
            kafka = self._topics(f"-{size}")
            produce(kafka, kafka.topics.feature_logs, FEATURE_LOGS, logs, size)
            produce(kafka, kafka.topics.user_actions, USER_ACTIONS, actions, size)
            self._forms[size] = kafka
        self._runs = 0

    def _topics(self, suffix: str) -> KafkaConfig:
        named = {
            field: msgspec.structs.replace(topic, name=topic.name + suffix)
            for field, topic in msgspec.structs.asdict(TopicsConfig()).items()
        }
        kafka = msgspec.structs.replace(self._kafka, topics=TopicsConfig(**named))
        ensure_topics(kafka)
        return kafka

    def faust(self, side: str) -> float:
        """Messages a second of a Faust process, one record a message."""
        topics = self._forms[1].topics
        arguments = {
            "side": side,
            "bootstrap": self._kafka.servers,
            "logs": topics.feature_logs.name,
            "actions": topics.user_actions.name,
            "samples": topics.training_samples.name,
            "total": self._requests * (1 + ACTIONS),
            "seconds": self._seconds,
        }
        done = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/_join_faust.py"), json.dumps(arguments)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=self._seconds + 240, check=True,
        )  # fmt: skip
        count, seconds = json.loads(done.stdout)
        return float(count / seconds)

    def joiner(self, size: int) -> float:
        """Records a second of one joiner worker, from the first it reads to the last label it emits."""
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        config = self._config(self._forms[size], folder)
        path = folder / "config.yaml"
        dump_config(config, path)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "streaming", str(path)], cwd=ROOT, stdout=log, stderr=log
            )
        try:
            # one client for all questions: to make one for each took a fifth of a core, which the join lacked
            with httpx.Client(timeout=5) as client:
                return self._rate(client, f"http://127.0.0.1:{config.streaming.ops_port}/report/joiner")
        finally:
            process.kill()
            process.wait()

    def _config(self, kafka: KafkaConfig, folder: Path) -> Config:
        streaming = StreamingConfig(
            app_id=f"bench-joiner-{self._runs}",
            window_seconds=WINDOW_MS / 1000,
            disorder_seconds=1,
            idle_seconds=600,
            ops_port=free_port(),
        )
        # a joiner takes what lies in its samples for emitted, so each run has a topic of its own
        samples = kafka.topics.training_samples
        samples = msgspec.structs.replace(samples, name=f"{samples.name}-{self._runs}")
        topics = msgspec.structs.replace(kafka.topics, training_samples=samples)
        kafka = msgspec.structs.replace(kafka, topics=topics)
        local = load_config(ROOT / "configs/local.yaml")
        return msgspec.structs.replace(local, kafka=kafka, run_dir=str(folder), streaming=streaming)

    def _rate(self, client: httpx.Client, url: str) -> float:
        began: tuple[float, int] | None = None
        deadline = time.monotonic() + self._seconds + 240
        total = self._requests * (1 + ACTIONS)
        while time.monotonic() < deadline:
            time.sleep(0.1)
            try:
                report = client.get(url).json()
            except httpx.HTTPError:
                continue
            now, records = time.perf_counter(), report["feature_logs"] + report["actions"]
            if began is None:
                began = (now, records) if records else None
                continue
            done = records >= total and report["blocks"] >= self._requests
            if done or now - began[0] > self._seconds:
                return float((records - began[1]) / (now - began[0]))
        raise RuntimeError("the joiner did not come to its end")


def partition(store: Any) -> Partition:
    """A partition with the rules of the benchmark."""
    tasks = load_config(ROOT / "configs/local.yaml").tasks
    rules = Rules.of(StreamingConfig(window_seconds=WINDOW_MS / 1000), tasks)
    sampler = Sampler(SamplingConfig(), rules.tasks)
    timing = Timing(1000, 10**9)
    return Partition(0, ("l", "a"), rules, timing, sampler=sampler, store=store, counts=Counts(), now=0)


def messages(logs: Sequence[FeatureLog]) -> Iterator[Message]:
    """The feature logs as messages, one record each."""
    for offset, log in enumerate(logs):
        yield Message(offset, BASE, FEATURE_LOGS.encode([log]))


def memory(count: int) -> float:
    """Bytes of memory by open request over bytes of its message, in a process of its own."""
    code = f"import join; print(join.measure_memory({count}))"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, check=True)
    return float(done.stdout)


def measure_memory(count: int) -> float:
    """See `memory`."""
    rng = random.Random(1)
    values = [FEATURE_LOGS.encode([feature_log(rng, i)]) for i in range(count)]
    under_test = partition(MemoryStore(1))
    before = peak_bytes()
    for offset, value in enumerate(values):
        # a copy, as Kafka's client has: what the join keeps of it counts
        under_test.receive(Side.FEATURES, Message(offset, BASE, bytes(memoryview(value))), 0)
    if under_test.join.open_requests != count:
        raise RuntimeError(f"{under_test.join.open_requests} requests are open; legal is {count}")
    return (peak_bytes() - before) / sum(map(len, values))


def peak_bytes() -> int:
    """The most memory that this process has had resident so far."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) * 1024


def late_lookups(folder: Path, count: int) -> float:
    """Late actions a second, from the message to the encoded late block, of requests on disk only."""
    store = RocksStore(folder / "late", 3600)
    under_test = partition(store)
    rng = random.Random(1)
    logs = [feature_log(rng, i) for i in range(count)]
    for message in messages(logs):
        under_test.receive(Side.FEATURES, message, 0)
    beat = Message(count, BASE, FEATURE_LOGS.encode([Heartbeat(BASE + 10**10)]))
    under_test.receive(Side.FEATURES, beat, 0)
    under_test.receive(Side.ACTIONS, Message(0, BASE, USER_ACTIONS.encode([Heartbeat(BASE + 10**10)])), 0)
    deliver(under_test)
    store.flush()
    store.close()
    store = RocksStore(folder / "late", 3600)
    under_test = partition(store)
    batches = [
        USER_ACTIONS.encode([late_like(log) for log in rng.sample(logs, 64)]) for _ in range(count // 64)
    ]
    began = time.perf_counter()
    for offset, value in enumerate(batches):
        under_test.receive(Side.ACTIONS, Message(offset, BASE, value), 0)
        deliver(under_test)
    store.flush()
    return 64 * len(batches) / (time.perf_counter() - began)


def late_like(log: FeatureLog) -> ActionBatch:
    """A like of the first item of `log`."""
    return ActionBatch(log.user_id, (Action(log.request_id, int(log.item_ids()[0]), "like", log.event_time),))


def flood(count: int) -> float:
    """What a tenth of garbage messages leaves of the records a second, one record each, without a broker."""
    rng = random.Random(1)
    sound = list(messages([feature_log(rng, i) for i in range(count)]))
    rates = []
    for garbage in (0, 0, count // 9):  # the first is to warm up
        under_test = partition(MemoryStore(1))
        values = [m.value for m in sound] + [rng.randbytes(800)] * garbage
        rng.shuffle(values)
        began = time.process_time()
        for offset, value in enumerate(values):
            under_test.receive(Side.FEATURES, Message(offset, BASE, value), 0)
            if not offset % 64:
                deliver(under_test)
        rates.append(count / (time.process_time() - began))
    return rates[2] / rates[1]


def deliver(under_test: Partition) -> None:
    """As if the broker took everything at once."""
    for parcel in under_test.parcels():
        under_test.delivered(parcel)
    under_test.acknowledged()


def main(
    requests: Annotated[
        int, typer.Option(min=1000, help="requests, of 10 impressions and 6 actions each")
    ] = 100_000,
    seconds: Annotated[float, typer.Option(min=1, help="each side reads for this long at most")] = 40.0,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Measure."""
    bench = Benchmark("join")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        port = free_port()
        broker = LocalBroker(KafkaConfig(local_port=port, heap_mb=512), folder / "kafka")
        broker.start(timeout=90)
        try:
            bench.say(f"producing {requests} requests and {requests * ACTIONS} actions, twice")
            sides = Sides(folder, port, requests, seconds)
            run: dict[str, Callable[[], float]] = {
                "joiner_single_messages_per_second": lambda: sides.joiner(1),
                "faust_table_messages_per_second": lambda: sides.faust("table"),
                "faust_bare_messages_per_second": lambda: sides.faust("bare"),
                "joiner_envelopes_records_per_second": lambda: sides.joiner(64),
            }
            results = bench.alternate(run, rounds)
        finally:
            broker.stop(timeout=10)
        single, table, bare, envelopes = run
        bench.ratio_bar("single_over_faust_table", results, single, table, at_least=2.0)
        bench.ratio_bar("single_over_bare_agent", results, single, bare, at_least=0.75)
        bench.ratio_bar("envelopes_over_faust_table", results, envelopes, table, at_least=45)
        bench.say("memory and late lookups")
        bench.bar("memory_over_encoded", memory(MEMORY_REQUESTS), at_most=3)
        rates = [late_lookups(folder / str(i), min(requests, 30_000)) for i in range(rounds)]
        bench.measured["late_lookups"] = {"min": min(rates), "max": max(rates)}
        bench.bar("late_lookups_per_second", statistics.median(rates), at_least=20_000)
        floods = [flood(min(requests, 20_000)) for _ in range(rounds)]
        bench.measured["a_tenth_of_garbage_over_none"] = {"min": min(floods), "max": max(floods)}
    bench.finish()


if __name__ == "__main__":
    typer.run(main)

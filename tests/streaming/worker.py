"""Joiner workers as processes on a real Kafka, what to feed them, and the trainer's view of what they emit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from runtime.kafka import consumer, end_offsets, producer
from runtime.ports import free_port
from schema.codec import DEAD_LETTERS, FEATURE_LOGS, TRAINING_SAMPLES, USER_ACTIONS, Codec
from schema.config import Config, KafkaConfig, StreamingConfig, TopicConfig
from schema.config_file import dump_config, load_config
from schema.ids import partition_of, user_key
from schema.records import ActionBatch, DeadLetter, FeatureLog, Heartbeat, SampleBlock
from tests.polling import wait_until
from tests.streaming.make import TASKS
from tests.streaming.netview import Label, NetView

ROOT = Path(__file__).parents[2]


def deployment(kafka: KafkaConfig, folder: Path, **streaming: Any) -> Config:
    """The local configuration on `kafka`, with two tasks and a window of one second."""
    settings = {
        "app_id": f"joiner-{kafka.topics.feature_logs.name}",
        "window_seconds": 1.0,
        "disorder_seconds": 0.2,
        "idle_seconds": 0.3,
        "commit_seconds": 0.2,
        "ops_port": free_port(),
    }
    return msgspec.structs.replace(
        load_config(ROOT / "configs/local.yaml"),
        kafka=kafka,
        tasks=TASKS,
        run_dir=str(folder),
        streaming=StreamingConfig(**(settings | streaming)),
    )


class Worker:
    """One process of the joiner."""

    def __init__(self, config: Config, folder: Path, number: int = 0) -> None:
        path = folder / f"config-{number}.yaml"
        dump_config(config, path)
        self._url = f"http://{config.ops_host}:{config.streaming.ops_port + number}"
        self._log = folder / f"worker-{number}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "streaming", str(path), "--worker", str(number)],
                cwd=ROOT,
                stderr=log,
                stdout=log,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def report(self) -> dict[str, Any]:
        return dict(json.loads(self.page("/report/joiner")))

    def page(self, path: str) -> str:
        return httpx.get(f"{self._url}{path}", timeout=5).text

    def ready(self) -> bool:
        try:
            return self.page("/readyz") == "ready\n"
        except httpx.TransportError:
            return False

    def wait_ready(self) -> Worker:
        wait_until(lambda: self.ready() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.output
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@contextmanager
def workers(config: Config, folder: Path, count: int = 1) -> Iterator[list[Worker]]:
    """`count` ready workers; the list may be changed, what is in it at the end is killed."""
    running = [Worker(config, folder, i) for i in range(count)]
    try:
        for worker in running:
            worker.wait_ready()
        yield running
    except AssertionError:
        for worker in running:
            if worker.ready():
                sys.stderr.write(f"{worker.report()}\n")
        raise
    finally:
        for worker in running:
            worker.kill()


class Feed:
    """Writes to the input topics, several records a message, as the project's producers do."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self.topics = kafka.topics
        self._producer = producer(kafka)

    def logs(self, records: Sequence[FeatureLog], envelope: int = 8) -> None:
        self._send(self.topics.feature_logs, FEATURE_LOGS, records, envelope)

    def actions(self, records: Sequence[ActionBatch], envelope: int = 8) -> None:
        self._send(self.topics.user_actions, USER_ACTIONS, records, envelope)

    def samples(self, blocks: Sequence[SampleBlock]) -> None:
        self._send(self.topics.training_samples, TRAINING_SAMPLES, blocks, 8)

    def heartbeat(self, event_time: int) -> None:
        for topic, codec in (
            (self.topics.feature_logs, FEATURE_LOGS),
            (self.topics.user_actions, USER_ACTIONS),
        ):
            for partition in range(topic.partitions):
                self.raw(topic, codec.encode([Heartbeat(event_time)]), partition)
        self.flush()

    def raw(self, topic: TopicConfig, value: bytes | None, partition: int) -> None:
        self._producer.send(topic.name, value=value, key=b"x", partition=partition)

    def flush(self) -> None:
        self._producer.flush(timeout=20)

    def close(self) -> None:
        self._producer.close()

    def _send(self, topic: TopicConfig, codec: Codec[Any], records: Sequence[Any], envelope: int) -> None:
        shares: dict[int, list[Any]] = {}
        for record in records:
            shares.setdefault(partition_of(record.user_id, topic.partitions), []).append(record)
        for partition, share in shares.items():
            for start in range(0, len(share), envelope):
                some = share[start : start + envelope]
                key = user_key(some[0].user_id)
                self._producer.send(topic.name, value=codec.encode(some), key=key, partition=partition)
        self.flush()


class View:
    """Reads what came out, with the trainer's filter on (partition, offset, index, row, task)."""

    def __init__(self, kafka: KafkaConfig) -> None:
        self._kafka = kafka
        self._reader = consumer(kafka)
        self._start()

    def _start(self) -> None:
        from kafka import TopicPartition  # noqa: PLC0415 - only here

        topics = self._kafka.topics
        places = [
            TopicPartition(t.name, p)
            for t in (topics.training_samples, topics.dead_letters)
            for p in range(t.partitions)
        ]
        self._reader.assign(places)
        self._reader.seek_to_beginning(*places)
        self._net = NetView()
        self.blocks: list[SampleBlock] = []
        self.letters: list[DeadLetter] = []

    def poll(self) -> View:
        for place, messages in self._reader.poll(timeout_ms=200).items():
            for message in messages:
                if place.topic == self._kafka.topics.dead_letters.name:
                    self.letters += DEAD_LETTERS.decode(message.value)
                else:
                    for block in TRAINING_SAMPLES.decode(message.value):
                        assert block.problem() is None
                        assert block.source.partition == place.partition
                        self._take(block)
        return self

    @property
    def labels(self) -> list[Label]:
        """What the trainer has learned, sorted."""
        return self._net.labels

    @property
    def filtered(self) -> int:
        """How many pairs its filter has dropped."""
        return self._net.filtered

    def _take(self, block: SampleBlock) -> None:
        self.blocks.append(block)
        self._net.take(block)

    def close(self) -> None:
        self._reader.close()


def unread(kafka: KafkaConfig, group: str) -> int:
    """How many messages of both input topics the group has not acknowledged."""
    from kafka import TopicPartition  # noqa: PLC0415 - only here

    reader = consumer(kafka, group=group)
    left = 0
    for topic in (kafka.topics.feature_logs, kafka.topics.user_actions):
        for partition, end in end_offsets(reader, topic.name).items():
            left += end - (reader.committed(TopicPartition(topic.name, partition)) or 0)
    reader.close()
    return left

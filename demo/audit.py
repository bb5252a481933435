"""Counts what went through Kafka, and compares replicas with shards. Believes no role's own counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kafka import TopicPartition

from demo.collect import Report
from parameter_server.client import ParameterClient
from runtime.kafka import consumer, end_offsets
from schema.codec import DEAD_LETTERS, FEATURE_LOGS, Codec
from schema.config import Config, KafkaConfig, TopicConfig
from schema.records import FeatureLog


def count_exposures(config: KafkaConfig) -> int:
    """The impressions of all feature logs that the topic holds now, each request id counted once."""
    requests: set[str] = set()
    exposures = 0
    for record in records(config, config.topics.feature_logs, FEATURE_LOGS):
        if isinstance(record, FeatureLog) and record.request_id not in requests:
            requests.add(record.request_id)
            exposures += len(record)
    return exposures


def dead_letters(config: KafkaConfig) -> dict[str, int]:
    """How many dead letters the topic holds now, by reason."""
    reasons: dict[str, int] = {}
    for letter in records(config, config.topics.dead_letters, DEAD_LETTERS):
        reasons[letter.reason] = reasons.get(letter.reason, 0) + 1
    return reasons


def digests_match(config: Config, replicas: list[list[Report]]) -> dict[str, bool]:
    """For each shard, whether every replica's digest of each of its tables is the shard's own."""
    client = ParameterClient(config.parameter_server)
    try:
        return {
            f"shard-{shard}": all(_same(client, shard, reports) for reports in replicas)
            for shard in range(len(config.parameter_server.shards))
        }
    finally:
        client.close()


def _same(client: ParameterClient, shard: int, reports: list[Report]) -> bool:
    mine = [r for r in reports if r["shard"] == shard]
    return bool(mine) and all(int(r["digest"], 16) == client.digest(shard, r["table"])[1] for r in mine)


def records(config: KafkaConfig, topic: TopicConfig, codec: Codec[Any]) -> Iterator[Any]:
    """Every record from the first message of `topic` to the last that it holds now."""
    reader = consumer(config)
    try:
        ends = end_offsets(reader, topic.name)
        places = {TopicPartition(topic.name, p): end for p, end in ends.items()}
        reader.assign(list(places))
        reader.seek_to_beginning(*places)
        while any(reader.position(place) < end for place, end in places.items()):
            for messages in reader.poll(timeout_ms=500).values():
                for message in messages:
                    yield from codec.decode(message.value)
    finally:
        reader.close()

"""Topics on a real broker: made as configured, left alone where they are, refused where they differ."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from runtime.errors import BrokerUnavailable, TopicMismatch
from runtime.kafka import consumer, end_offsets, ensure_topics, producer, wait_for_broker
from runtime.kafka.clients import admin
from runtime.ports import free_port
from schema.config import KafkaConfig


@pytest.fixture
def client(topics):
    client = admin(topics)
    yield client
    client.close()


def settings(client, topic):
    asked = ConfigResource(ConfigResourceType.TOPIC, topic.name)
    found = client.describe_configs([asked], config_filter="all")
    return {key: value["value"] for key, value in found["topic"][topic.name].items()}


def with_topic(config, **fields):
    changed = msgspec.structs.replace(config.topics.user_actions, **fields)
    return msgspec.structs.replace(
        config, topics=msgspec.structs.replace(config.topics, user_actions=changed)
    )


def test_partition_counts_are_the_configured_ones(topics, client):
    wanted = msgspec.structs.asdict(topics.topics).values()
    found = {t["name"]: len(t["partitions"]) for t in client.describe_topics([t.name for t in wanted])}
    assert found == {t.name: t.partitions for t in wanted}


def test_the_broker_stamps_what_freshness_is_measured_from_and_compacts_the_catalogue(topics, client):
    named = topics.topics
    stamped = [named.feature_logs, named.user_actions, named.training_samples]
    assert {settings(client, t)["message.timestamp.type"] for t in stamped} == {"LogAppendTime"}
    assert settings(client, named.dead_letters)["message.timestamp.type"] == "CreateTime"
    assert settings(client, named.catalogue)["cleanup.policy"] == "compact"
    assert settings(client, named.feature_logs)["cleanup.policy"] == "delete"


def test_topics_that_exist_are_left_as_they_are(topics):
    name = topics.topics.user_actions.name
    sender = producer(topics)
    sender.send(name, b"kept").get(timeout=10)
    sender.close(10)
    ensure_topics(topics)
    reader = consumer(topics)
    assert sum(end_offsets(reader, name).values()) == 1
    reader.close()


def test_another_partition_count_is_refused_with_topic_count_and_what_is_legal(topics):
    name = topics.topics.user_actions.name
    with pytest.raises(TopicMismatch, match=rf"topic '{name}': it exists with 4 .* says 6; legal is 4 in"):
        ensure_topics(with_topic(topics, partitions=6))


def test_processes_that_make_the_topics_at_once_do_not_fail(topics):
    fresh = with_topic(topics, name=topics.topics.user_actions.name + "-again")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(ensure_topics, [fresh] * 3))


def test_without_a_broker_the_error_names_address_and_key():
    port = free_port()
    with pytest.raises(BrokerUnavailable, match=rf"kafka.local_port: .* 127.0.0.1:{port} within 0.2 s"):
        wait_for_broker(KafkaConfig(local_port=port), 0.2)
    with pytest.raises(BrokerUnavailable, match=rf"kafka.bootstrap: .* localhost:{port}"):
        wait_for_broker(KafkaConfig(bootstrap=f"localhost:{port}"), 0.2)


def test_the_end_of_an_unknown_topic_is_an_error(topics):
    reader = consumer(topics)
    with pytest.raises(BrokerUnavailable, match="topic 'never-made'"):
        end_offsets(reader, "never-made")
    reader.close()

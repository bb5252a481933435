"""Envelope producers on a real broker: order, co-partitioning, when an envelope leaves, and failures."""

import random
from collections import defaultdict

import msgspec
import pytest
from kafka import TopicPartition

from runtime.errors import DeliveryFailed
from runtime.kafka import EnvelopeProducer, consumer, end_offsets
from runtime.kafka.envelopes import MAX_ENVELOPE_BYTES
from runtime.ports import free_port
from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.config import KafkaConfig
from schema.ids import partition_of, user_key
from schema.records import Action, ActionBatch, Heartbeat, Profile
from tests.polling import wait_until


@pytest.fixture
def actions(topics):
    """A maker of producers to the actions topic, closed at the end."""
    made = []

    def make(**settings):
        made.append(EnvelopeProducer(topics, topics.topics.user_actions, USER_ACTIONS, **settings))
        return made[-1]

    yield make
    for producer in made:
        producer.close(10)


@pytest.fixture
def reader(topics):
    reader = consumer(topics)
    yield reader
    reader.close()


def batch(user, number):
    return ActionBatch(user, (Action("r", number, "click", number),))


def messages(reader, topic, codec):
    """What lies in a topic: for each partition its messages' keys and records, in order."""
    ends = end_offsets(reader, topic.name)
    places = [TopicPartition(topic.name, p) for p in ends]
    reader.assign(places)
    reader.seek_to_beginning(*places)
    found = defaultdict(list)
    while any(reader.position(place) < ends[place.partition] for place in places):
        for place, polled in reader.poll(1000).items():
            found[place.partition] += [(m.key, codec.decode(m.value)) for m in polled]
    return found


def test_a_users_records_arrive_in_order_in_the_users_partition(topics, actions, reader):
    sent = defaultdict(list)
    choose = random.Random(3)
    producer = actions(linger_seconds=0.001)
    for number in range(3000):
        user = choose.randrange(50)
        producer.send(user, batch(user, number))
        sent[user].append(number)
    producer.flush(20)
    arrived = defaultdict(list)
    for partition, envelopes in messages(reader, topics.topics.user_actions, USER_ACTIONS).items():
        for key, records in envelopes:
            assert key == user_key(records[0].user_id)
            for record in records:
                assert partition == partition_of(record.user_id, 4)
                arrived[record.user_id].append(record.actions[0].item_id)
    assert arrived == sent


def test_two_topics_put_a_user_in_the_same_partition(topics, actions, reader):
    logs = EnvelopeProducer(topics, topics.topics.feature_logs, FEATURE_LOGS)
    producer = actions()
    for user in range(20):
        logs.send(user, Heartbeat(user))
        producer.send(user, Heartbeat(user))
    logs.close(10)
    producer.flush(10)

    def users(topic, codec):
        found = messages(reader, topic, codec)
        return {p: sorted(r.event_time for _, rs in envelopes for r in rs) for p, envelopes in found.items()}

    assert users(topics.topics.feature_logs, FEATURE_LOGS) == users(topics.topics.user_actions, USER_ACTIONS)


def test_an_envelope_leaves_by_itself_once_its_first_record_has_lingered(topics, actions, reader):
    actions(linger_seconds=0.02).send(7, batch(7, 1))
    wait_until(lambda: sum(end_offsets(reader, topics.topics.user_actions.name).values()) == 1, 10)


def test_an_envelope_holds_at_most_max_records(topics, actions, reader):
    producer = actions(linger_seconds=60, max_records=8)
    for number in range(20):
        producer.send(7, batch(7, number))
    wait_until(lambda: sum(end_offsets(reader, topics.topics.user_actions.name).values()) == 2, 10)
    producer.flush(10)
    (envelopes,) = messages(reader, topics.topics.user_actions, USER_ACTIONS).values()
    assert [len(records) for _, records in envelopes] == [8, 8, 4]


def test_large_records_share_no_envelope_beyond_the_bound(topics, reader):
    producer = EnvelopeProducer(topics, topics.topics.catalogue, CATALOGUE, linger_seconds=60)
    big = Profile("item", 1, 0, {"tag": ("x" * (MAX_ENVELOPE_BYTES // 3),)})
    oversized = Profile("item", 2, 0, {"tag": ("x" * (2 * MAX_ENVELOPE_BYTES),)})
    for profile in (big, big, big, oversized, big):
        producer.send_to(0, profile, profile.key)
    producer.close(10)
    (envelopes,) = messages(reader, topics.topics.catalogue, CATALOGUE).values()
    assert [(key, len(records)) for key, records in envelopes] == [
        (b"item:1", 2),
        (b"item:1", 1),
        (b"item:2", 1),
        (b"item:1", 1),
    ]


def test_a_message_that_the_broker_refuses_is_raised_by_the_next_flush_and_only_there(topics, actions):
    unknown = msgspec.structs.replace(topics.topics.user_actions, name="never-made")
    producer = EnvelopeProducer(topics, unknown, USER_ACTIONS)
    producer._producer.config["max_block_ms"] = 300
    producer.send(7, batch(7, 1))
    with pytest.raises(DeliveryFailed, match="topic 'never-made': 1 messages were not delivered; the first:"):
        producer.flush(20)
    producer.close(5)


def test_what_the_codec_cannot_write_is_refused_at_once(actions):
    with pytest.raises(TypeError):
        actions().send(7, object())


def test_a_partition_that_the_topic_lacks_is_refused(actions):
    with pytest.raises(ValueError, match="partition: 4; legal is 0 to 3"):
        actions().send_to(4, batch(7, 1))


def test_a_closed_producer_takes_nothing_and_may_be_closed_again(actions):
    producer = actions()
    producer.close(5)
    producer.close(5)
    with pytest.raises(ValueError, match="the producer is closed"):
        producer.send(7, batch(7, 1))


def test_max_records_below_one_is_refused():
    config = KafkaConfig(local_port=free_port())
    with pytest.raises(ValueError, match="max_records: 0; legal is 1 and above"):
        EnvelopeProducer(config, config.topics.user_actions, USER_ACTIONS, max_records=0)

"""The project's own broker: starts, keeps its data over stops and kills, says why it cannot start."""

import signal
import socket
import subprocess
import sys

import msgspec
import pytest
from kafka import TopicPartition

from runtime.broker import LocalBroker
from runtime.errors import BrokerFailed
from runtime.kafka import EnvelopeProducer, consumer, end_offsets, ensure_topics
from runtime.ports import free_port, is_free
from schema.codec import USER_ACTIONS
from schema.config import KafkaConfig, TopicsConfig
from schema.records import Heartbeat
from tests.polling import wait_until

pytestmark = pytest.mark.kafka


def small() -> KafkaConfig:
    return KafkaConfig(local_port=free_port(), heap_mb=256)


@pytest.fixture
def broker(tmp_path):
    made = []

    def make(config, folder="kafka"):
        made.append(LocalBroker(config, tmp_path / folder))
        return made[-1]

    yield make
    for each in made:
        each.kill()


def messages_in(config, topic):
    reader = consumer(config)
    try:
        return sum(end_offsets(reader, topic.name).values())
    finally:
        reader.close()


def test_data_outlives_a_stop_and_a_kill(broker):
    config = small()
    topic = config.topics.user_actions
    own = broker(config)
    assert not own.alive
    own.start(60)
    ensure_topics(config)
    producer = EnvelopeProducer(config, topic, USER_ACTIONS, max_records=1)
    for number in range(10):
        producer.send(number, Heartbeat(number))
    producer.flush(20)

    own.stop(10)
    assert not own.alive
    own.start(60)
    assert messages_in(config, topic) == 10

    producer.send(1, Heartbeat(11))
    producer.flush(20)
    own.kill()
    assert not own.alive
    own.start(60)
    assert messages_in(config, topic) == 11
    producer.close(5)


def test_what_is_sent_while_the_broker_is_killed_arrives_once_and_in_order(broker):
    config = small()
    topic = msgspec.structs.replace(config.topics.user_actions, partitions=1)
    config = msgspec.structs.replace(config, topics=TopicsConfig(user_actions=topic))
    own = broker(config)
    own.start(60)
    ensure_topics(config)
    producer = EnvelopeProducer(config, topic, USER_ACTIONS, linger_seconds=0.001)
    for number in range(30_000):
        producer.send_to(0, Heartbeat(number))
        if number == 15_000:
            own.kill()
    own.start(60)
    producer.close(60)
    assert event_times(config, topic) == list(range(30_000))


def event_times(config, topic):
    reader, place = consumer(config), TopicPartition(topic.name, 0)
    end = end_offsets(reader, topic.name)[0]
    reader.assign([place])
    found = []
    while reader.position(place) < end:
        for message in reader.poll(1000).get(place, ()):
            found += [record.event_time for record in USER_ACTIONS.decode(message.value)]
    reader.close()
    return found


def test_a_taken_port_is_named_with_its_key_and_what_to_do(broker):
    config = small()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", config.local_port))
        holder.listen()
        with pytest.raises(
            BrokerFailed, match=rf"kafka.local_port: {config.local_port} is taken .*bootstrap"
        ):
            broker(config).start(5)


def test_a_start_that_fails_shows_the_end_of_the_log(broker, tmp_path):
    config = small()
    own = broker(config)
    own.start(60)
    own.stop(10)
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=99\n")
    with pytest.raises(BrokerFailed, match=r"(?s)ended while starting; its log ends:.*node"):
        own.start(60)
    assert not own.alive
    assert is_free(config.local_port)


def test_a_start_that_takes_too_long_is_ended(broker):
    own = broker(small())
    with pytest.raises(BrokerFailed, match=r"did not answer within 0\.01 s"):
        own.start(0.01)
    assert not own.alive


def test_it_dies_with_a_parent_that_is_killed(tmp_path):
    config = small()
    code = (
        "import sys, time; from pathlib import Path; from runtime.broker import LocalBroker\n"
        "from schema.config import KafkaConfig\n"
        f"broker = LocalBroker(KafkaConfig(local_port={config.local_port}, heap_mb=256), Path(sys.argv[1]))\n"
        "broker.start(60); print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "kafka")], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout as output:
        assert output.readline() == b"up\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        wait_until(lambda: is_free(config.local_port), 10)


def kafka_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "runtime.kafka_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_command_starts_a_broker_that_goes_on_says_so_and_stops_it(tmp_path):
    port, data = free_port(), tmp_path / "kafka"
    assert kafka_command("status", "--data", data).returncode == 1
    try:
        started = kafka_command("start", "--data", data, "--port", port, "--heap-mb", 256)
        assert started.returncode == 0, started.stderr
        status = kafka_command("status", "--data", data)
        assert status.returncode == 0
        assert "runs on" in status.stdout
        again = kafka_command("start", "--data", data, "--port", port)
        assert again.returncode == 2
        assert "already runs on" in again.stderr
        other = kafka_command("start", "--data", tmp_path / "other", "--port", port)
        assert other.returncode == 1
        assert f"kafka.local_port: {port} is taken" in other.stderr
    finally:
        stopped = kafka_command("stop", "--data", data)
    assert "stopped the broker" in stopped.stdout
    assert is_free(port)
    assert "no broker runs" in kafka_command("stop", "--data", data).stdout


def test_a_stale_process_id_is_not_taken_for_a_broker(tmp_path):
    (tmp_path / "kafka.pid").write_text("1\n")
    assert kafka_command("status", "--data", tmp_path).returncode == 1

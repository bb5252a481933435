"""What every test may ask for: a real Kafka, topics of its own, the folder of real logs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings

from runtime.broker import LocalBroker
from runtime.kafka import ensure_topics
from runtime.ports import free_port
from schema.config import KafkaConfig, TopicConfig, TopicsConfig

# The same examples in every run, and no verdict from the clock of a busy machine.
settings.register_profile(
    "headwater", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("headwater")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python leaves the socket of a refused connection to the garbage collector, which tests that stop
    # a broker run into; such a socket has no address yet, so that other unclosed sockets still count
    config.addinivalue_line("filterwarnings", r"ignore:unclosed <socket.*laddr=.'0\.0\.0\.0':ResourceWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="slow; --slow runs it")
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "kafka" in fixtures:
            item.add_marker(pytest.mark.kafka)
        if "data_dir" in fixtures:
            item.add_marker(pytest.mark.data)
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call"
    ]
    on_kafka = sum("kafka" in report.keywords for report in outcomes)
    terminalreporter.write_line(f"{len(outcomes)} tests ran, {on_kafka} of them on Apache Kafka")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaConfig]:
    """A configuration whose `bootstrap` is a broker that the session has started. It has no topics yet."""
    port = free_port()
    broker = LocalBroker(KafkaConfig(local_port=port, heap_mb=256), tmp_path_factory.mktemp("kafka"))
    broker.start(timeout=90)
    yield KafkaConfig(bootstrap=f"127.0.0.1:{port}")
    broker.stop(timeout=10)


@pytest.fixture
def topics(kafka: KafkaConfig) -> KafkaConfig:
    """`kafka` with all its topics made, under names that no other test uses."""
    suffix = uuid.uuid4().hex[:8]
    named = {
        field: msgspec.structs.replace(topic, name=f"{topic.name}-{suffix}")
        for field, topic in _topics(TopicsConfig()).items()
    }
    config = msgspec.structs.replace(kafka, topics=TopicsConfig(**named))
    ensure_topics(config)
    return config


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real logs that HEADWATER_DATA names."""
    named = os.environ.get("HEADWATER_DATA")
    if not named:
        pytest.skip("HEADWATER_DATA names no folder of real logs")
    path = Path(named)
    if not path.is_dir():
        pytest.fail(f"HEADWATER_DATA: {named!r} is not a folder")
    return path


def _topics(config: TopicsConfig) -> dict[str, TopicConfig]:
    return msgspec.structs.asdict(config)

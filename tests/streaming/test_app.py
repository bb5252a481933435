"""What the app sets inside the Kafka client is still what that looks at."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.fetcher import Fetcher


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (AIOKafkaConsumer, "_partition_assignment_strategy"),
        (AIOKafkaConsumer, "_fetch_max_wait_ms"),
        (AIOKafkaConsumer, "_fetcher"),
        (Fetcher, "_prefetch_backoff"),
    ],
)
def test_the_client_has_what_is_set(of, name):
    assert name in of.__init__.__code__.co_names

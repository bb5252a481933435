"""Readiness probes: whether a process can be used now, asked from outside."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from runtime.errors import BrokerUnavailable
from runtime.kafka import wait_for_broker
from schema.config import KafkaConfig

Probe = Callable[[], bool]
_SECONDS: Final = 2.0


def http_ready(host: str, port: int, path: str = "/readyz") -> Probe:
    """Whether `GET path` answers 200 within two seconds."""

    def ready() -> bool:
        connection = http.client.HTTPConnection(host, port, timeout=_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def kafka_ready(config: KafkaConfig) -> Probe:
    """Whether the broker answers requests."""

    def ready() -> bool:
        try:
            wait_for_broker(config, 0.0)
        except BrokerUnavailable:
            return False
        return True

    return ready

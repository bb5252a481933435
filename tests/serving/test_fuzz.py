"""Whatever the schema allows, and much that it does not: no answer is a 500, and all are as the schema says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, settings

from tests.polling import wait_until
from tests.serving.parts import Stage, item

_STAGE = Stage(capacity=1 << 40)
_STAGE.learn(*[item(i) for i in range(100, 130)])
_STAGE.shards.publish(4)
_STAGE.replica.sync.run_round()
schema = schemathesis.openapi.from_dict(_STAGE.app.openapi())


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    # without its lifespan: the replica follows nothing and delivers nothing here
    server = uvicorn.Server(uvicorn.Config(_STAGE.app, log_config=None, lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    wait_until(lambda: server.started, 20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@schema.parametrize()
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_no_request_makes_it_fail(case: schemathesis.Case, base_url: str) -> None:
    case.call_and_validate(base_url=base_url)

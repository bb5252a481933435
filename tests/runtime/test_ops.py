"""The ops endpoint: what each path answers, and that a role's faulty check does not take it down."""

import json
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import Counter

from runtime.ops import OpsServer, to_json

_SEEN = Counter("headwater_test_ops_seen", "For the test of /metrics.")


def broken() -> bool:
    raise RuntimeError("no")


@pytest.fixture
def serve():
    servers = []

    def start(ready=lambda: True, reports=None, commands=None):
        server = OpsServer("127.0.0.1", 0, ready, reports, commands)
        server.start()
        servers.append(server)
        return f"http://127.0.0.1:{server.port}"

    yield start
    for server in servers:
        server.stop()


def test_health_is_independent_of_readiness(serve):
    base = serve(ready=lambda: False)
    assert httpx.get(f"{base}/healthz").status_code == 200
    assert httpx.get(f"{base}/readyz").status_code == 503


def test_readiness_follows_the_function(serve):
    answers = iter([False, True])
    base = serve(ready=lambda: next(answers))
    assert [httpx.get(f"{base}/readyz").status_code for _ in range(2)] == [503, 200]


def test_a_readiness_check_that_raises_answers_503_and_is_logged(serve, caplog):
    assert httpx.get(f"{serve(ready=broken)}/readyz").status_code == 503
    assert "the readiness check failed" in caplog.text


def test_metrics_are_those_of_the_process(serve):
    _SEEN.inc(3)
    assert "headwater_test_ops_seen_total 3.0" in httpx.get(f"{serve()}/metrics").text


def test_a_report_is_json_and_made_anew_for_each_request(serve):
    calls = []
    base = serve(reports={"calls": lambda: calls.append(1) or {"n": np.int64(len(calls))}})
    assert [httpx.get(f"{base}/report/calls").json() for _ in range(2)] == [{"n": 1}, {"n": 2}]


def test_an_unknown_report_names_the_legal_ones(serve):
    answer = httpx.get(f"{serve(reports={'auc': dict, 'lag': dict})}/report/nope")
    assert answer.status_code == 404
    assert answer.text == "report: 'nope'; legal are auc, lag\n"


def test_a_report_that_fails_answers_500_and_the_next_request_is_served(serve, caplog):
    base = serve(reports={"bad": broken, "odd": object})
    assert httpx.get(f"{base}/report/bad").status_code == 500
    assert httpx.get(f"{base}/report/odd").status_code == 500
    assert httpx.get(f"{base}/healthz").status_code == 200
    assert "report bad failed" in caplog.text


def test_an_unknown_path_names_the_legal_ones(serve):
    answer = httpx.get(f"{serve()}/nope")
    assert answer.status_code == 404
    assert "/report/<name>" in answer.text


def test_stop_closes_the_port_and_a_server_never_started_can_be_stopped():
    server = OpsServer("127.0.0.1", 0, lambda: True)
    server.start()
    server.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/healthz")
    OpsServer("127.0.0.1", 0, lambda: True).stop()


def test_a_taken_port_is_an_error(serve):
    port = int(serve().rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        OpsServer("127.0.0.1", port, lambda: True)


@dataclass
class Case:
    value: Any
    json: Any


CASES = [
    Case({"auc": float("nan"), "loss": float("inf")}, {"auc": None, "loss": None}),
    Case(np.float32("nan"), None),
    Case(np.float64(0.5), 0.5),
    Case(np.array([[1.0, np.nan], [2.0, 3.0]]), [[1.0, None], [2.0, 3.0]]),
    Case({"rows": np.uint64(2**63), "ok": np.bool_(True)}, {"rows": 2**63, "ok": True}),
    Case({np.int64(3): (np.int8(1), None, "x")}, {"3": [1, None, "x"]}),
    Case({("a", 1): 2}, TypeError),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case.value))
def test_numbers_of_numpy_and_nan_become_plain_json(case):
    if case.json is TypeError:
        with pytest.raises(TypeError):
            to_json(case.value)
    else:
        assert json.loads(to_json(case.value)) == case.json


def test_a_command_takes_an_object_and_says_what_is_wrong(serve):
    def double(given):
        if "n" not in given:
            raise ValueError("n: missing; legal is a number")
        return {"n": given["n"] * 2}

    base = serve(commands={"double": double, "broken": lambda _given: broken()})
    assert httpx.post(f"{base}/command/double", json={"n": 4}).json() == {"n": 8}
    assert httpx.post(f"{base}/command/double").status_code == 422
    assert "legal is a JSON object" in httpx.post(f"{base}/command/double", content=b"[1]").text
    assert httpx.post(f"{base}/command/double", content=b"x" * (1 << 17)).status_code == 422
    assert httpx.post(f"{base}/command/broken", json={}).status_code == 500
    unknown = httpx.post(f"{base}/command/halve", json={})
    assert (unknown.status_code, unknown.text) == (404, "command: 'halve'; legal are broken, double\n")
    assert httpx.get(f"{base}/command/double").status_code == 404

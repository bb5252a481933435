"""When dense versions go out."""

from __future__ import annotations

import torch

from models.dense import HOLD
from tests.trainer.fakes import Clock, FakeServer, Killer
from trainer.publishing import Publisher


def made() -> tuple[Clock, FakeServer, Publisher, torch.nn.Module]:
    clock = Clock()
    server = FakeServer(Killer(), clock)
    return clock, server, Publisher(server, 10.0, clock), torch.nn.Linear(2, 1)


def versions(server: FakeServer) -> list[int]:
    return [version for _, version, _, _ in server.dense]


def test_what_was_never_trained_stays_in():
    _, server, publisher, model = made()
    publisher.when_due(0, model)
    publisher.now(0, model)
    assert versions(server) == []


def test_publishes_what_is_new_when_it_is_time():
    clock, server, publisher, model = made()
    for step in range(1, 26):
        publisher.when_due(step, model)
        clock.now += 1.0
    assert versions(server) == [1, 11, 21]
    assert publisher.version == 21


def test_publishes_nothing_twice():
    clock, server, publisher, model = made()
    for _ in range(5):
        publisher.now(3, model)
        clock.now += 100.0
        publisher.when_due(3, model)
    assert versions(server) == [3]


def test_replicas_are_told_once_to_hold_and_once_to_go_on():
    _, server, publisher, _ = made()
    for reason in ("", "", "calibration", "calibration", "entropy", "", ""):
        publisher.hold(reason)
    assert [payload for _, _, _, payload in server.dense] == [b"", b"calibration", b"entropy", b""]
    assert {name for name, _, _, _ in server.dense} == {HOLD}


def test_a_hold_that_the_shard_takes_for_an_old_one_is_told_again():
    _, server, publisher, _ = made()
    put, taken = server.put_dense, iter([False, True])
    server.put_dense = lambda *told: put(*told) and next(taken)  # type: ignore[method-assign]
    for _ in range(3):
        publisher.hold("calibration")
    assert len(server.dense) == 2

"""When dense versions go out."""

from __future__ import annotations

import torch

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

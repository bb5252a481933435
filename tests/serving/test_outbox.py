"""Outboxes: nobody waits, nothing is kept without bound, nothing taken in is lost while Kafka comes late."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from kafka.errors import KafkaConnectionError

from runtime.errors import DeliveryFailed
from schema.codec import CATALOGUE
from schema.records import Profile
from serving.outbox import Outbox
from serving.senders import Outboxes
from serving.spool import Spool
from tests.polling import wait_until
from tests.serving.parts import Kept


def test_records_leave_in_order_and_the_producer_is_closed_at_the_stop():
    kept = Kept()
    box = Outbox("t", lambda: kept, 100)
    box.start()
    assert all(box.offer(i) for i in range(50))
    box.stop(10)
    assert kept.records == list(range(50))
    assert kept.closed
    assert box.offered == 50


def test_a_full_outbox_refuses_without_waiting():
    box = Outbox("t", Kept, 10, size=len)
    assert box.offer("123456789")
    assert not box.offer("12")
    assert box.offer("1")
    assert box.offered == 2


def test_after_the_stop_nothing_is_taken():
    box = Outbox("t", Kept, 10)
    box.start()
    box.stop(10)
    assert not box.offer(1)


def test_a_broker_that_comes_late_gets_what_was_offered_before(monkeypatch):
    monkeypatch.setattr("serving.outbox._RETRY_SECONDS", 0.01)
    kept, tries = Kept(), []

    def open_sender() -> Kept:
        tries.append(1)
        if len(tries) < 3:
            raise KafkaConnectionError
        return kept

    box = Outbox("t", open_sender, 10)
    box.offer("early")
    box.start()
    wait_until(lambda: kept.records == ["early"], 10)
    box.stop(10)


def test_a_stop_without_a_broker_ends_in_time():
    def open_sender() -> Kept:
        raise KafkaConnectionError

    box = Outbox("t", open_sender, 10)
    box.start()
    box.offer(1)
    started = time.monotonic()
    box.stop(5)
    assert time.monotonic() - started < 5


def test_what_waits_takes_up_room_until_it_is_delivered():
    entered, release = threading.Event(), threading.Event()

    class Slow(Kept):
        def flush(self, timeout: float) -> None:  # noqa: ARG002 - the interface
            entered.set()
            release.wait(10)

    slow = Slow()
    box = Outbox("t", lambda: slow, 2)
    box.start()
    assert box.offer(1)
    assert entered.wait(10)
    assert box.offer(2)
    assert not box.offer(3)
    release.set()
    wait_until(lambda: box.offer(4), 10)
    box.stop(10)
    assert slow.records == [1, 2, 4]


def test_a_stop_leaves_a_broker_that_hangs_no_longer_than_it_has_itself():
    given, stopping = [], threading.Event()

    class Hangs(Kept):
        def flush(self, timeout: float) -> None:
            given.append(timeout)
            stopping.wait(10)
            raise DeliveryFailed("hangs")

    box = Outbox("t", Hangs, 10)
    box.start()
    box.offer(1)
    wait_until(lambda: given, 10)
    box.leave(1)
    stopping.set()
    box.stop(1)
    assert len(given) > 1
    assert max(given[1:]) <= 1


def test_all_outboxes_are_told_of_a_stop_before_one_is_waited_for(caplog):
    entered = threading.Event()

    class Hangs(Kept):
        def flush(self, timeout: float) -> None:  # noqa: ARG002 - the interface
            entered.set()
            wait_until(lambda: not boxes.profiles.offer(2), 10)

    boxes = Outboxes(Outbox("a", Hangs, 10), Outbox("b", Kept, 10), Outbox("c", Kept, 1000))
    boxes.start()
    boxes.feature_logs.offer(1)
    assert entered.wait(10)
    boxes.stop(1)
    assert "not delivered" not in caplog.text


def profile(number: int) -> Profile:
    return Profile("item", number, 0, {})


class Broker:
    """Senders of a broker that can be away: what a sender holds that was not flushed is lost with it."""

    def __init__(self) -> None:
        self.away = False
        self.got: list[int] = []

    def open(self) -> Kept:
        if self.away:
            raise KafkaConnectionError
        broker = self

        class ToBroker(Kept):
            def flush(self, timeout: float) -> None:  # noqa: ARG002 - the interface
                if broker.away:
                    raise DeliveryFailed("away")
                broker.got.extend(record.id for record in self.records)
                self.records.clear()

        return ToBroker()


@pytest.fixture
def broker(monkeypatch) -> Broker:
    monkeypatch.setattr("serving.outbox._RETRY_SECONDS", 0.02)
    return Broker()


def test_without_a_broker_records_go_to_disk_within_a_bound_and_follow_in_order(broker, tmp_path):
    box = Outbox("t", broker.open, 50, spool=Spool(tmp_path, CATALOGUE, 1 << 20))
    box.start()
    assert box.offer(profile(0))
    wait_until(lambda: broker.got == [0], 10)
    broker.away = True
    for number in range(1, 200):
        # far more than memory holds
        wait_until(lambda n=number: box.offer(profile(n)), 10, every=0.005)
    wait_until(lambda: box.waiting == 0 and box.spooled_bytes > 0, 10)
    broker.away = False
    assert box.offer(profile(200))
    wait_until(lambda: broker.got == list(range(201)), 10)
    assert box.spooled_bytes == 0
    box.stop(10)
    assert list(tmp_path.iterdir()) == []


def test_a_full_spool_fills_the_memory_and_then_refuses(broker, tmp_path):
    broker.away = True
    box = Outbox("t", broker.open, 5, spool=Spool(tmp_path, CATALOGUE, 100))
    box.start()
    wait_until(lambda: not box.offer(profile(7)), 10, every=0.001)
    assert box.spooled_bytes <= 100
    box.stop(1)


def test_a_disk_that_refuses_is_as_one_without_room(broker, tmp_path, monkeypatch, caplog):
    broker.away = True
    spool = Spool(tmp_path, CATALOGUE, 1 << 20)
    box = Outbox("t", broker.open, 5, spool=spool)
    with monkeypatch.context() as full:
        full.setattr("pathlib.Path.write_bytes", _refuse)
        assert box.offer(profile(1))
        box.start()
        wait_until(lambda: "the disk refuses" in caplog.text, 10)
    wait_until(lambda: len(spool) == 1, 10)
    broker.away = False
    wait_until(lambda: broker.got == [1], 10)
    box.stop(10)


def _refuse(_file: Path, _data: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_stop_leaves_is_delivered_by_the_next_start(broker, tmp_path):
    broker.away = True
    first = Outbox("t", broker.open, 50, spool=Spool(tmp_path, CATALOGUE, 1 << 20))
    for number in range(20):
        first.offer(profile(number))
    first.start()
    first.stop(1)
    broker.away = False
    second = Outbox("t", broker.open, 50, spool=Spool(tmp_path, CATALOGUE, 1 << 20))
    second.offer(profile(20))
    second.start()
    wait_until(lambda: broker.got == list(range(21)), 10)
    second.stop(10)


class Picky(Kept):
    """Delivers only what has no 5 in it; what was, and how often it was not, is kept by the class."""

    delivered: ClassVar[list[int]]
    failed: ClassVar[int]

    def flush(self, timeout: float) -> None:  # noqa: ARG002 - the interface
        numbers = [record.id for record in self.records]
        if 5 in numbers:
            Picky.failed += 1
            raise DeliveryFailed("five")
        Picky.delivered += numbers
        self.records.clear()

    def close(self, timeout: float) -> None:  # noqa: ARG002 - the interface
        raise DeliveryFailed("closing")


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_record_that_is_refused_for_good_is_given_up_and_does_not_stop_the_others(
    tmp_path, monkeypatch, on_disk
):
    monkeypatch.setattr("serving.outbox._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("serving.outbox._ATTEMPTS", 3)
    Picky.delivered, Picky.failed = [], 0
    spool = Spool(tmp_path, CATALOGUE, 1 << 20)
    box = Outbox("t", Picky, 10, spool=spool)
    if on_disk:
        spool.append([profile(number) for number in range(8)])
        spool.append([profile(8)])
    for number in range(9 if on_disk else 0, 10):
        box.offer(profile(number))
    box.start()
    wait_until(lambda: box.waiting == 0 and not spool, 10)
    box.stop(10)
    assert Picky.delivered == [0, 1, 2, 3, 4, 6, 7, 8, 9], "each once, in order"
    assert Picky.failed == 4, "once with all others, then alone"


def test_a_damaged_batch_is_put_aside(broker, tmp_path, caplog):
    spool = Spool(tmp_path, CATALOGUE, 1 << 20)
    spool.append([profile(1)])
    spool.append([profile(2)])
    first = min(tmp_path.iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    box = Outbox("t", broker.open, 50, spool=Spool(tmp_path, CATALOGUE, 1 << 20))
    box.start()
    wait_until(lambda: broker.got == [2], 10)
    box.stop(10)
    assert "is damaged" in caplog.text
    assert [file.suffix for file in tmp_path.iterdir()] == [".damaged"]

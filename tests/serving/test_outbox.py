"""Outboxes: nobody waits, nothing is kept without bound, nothing taken in is lost while Kafka comes late."""

from __future__ import annotations

import threading
import time

from kafka.errors import KafkaConnectionError

from runtime.errors import DeliveryFailed
from serving.outbox import Outbox
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


def test_a_record_that_cannot_be_delivered_does_not_stop_the_others():
    class Picky(Kept):
        def send(self, record: int) -> None:
            if record == 2:
                raise DeliveryFailed("two")
            super().send(record)

        def close(self, timeout: float) -> None:  # noqa: ARG002 - the interface
            raise DeliveryFailed("closing")

    picky = Picky()
    box = Outbox("t", lambda: picky, 10)
    box.start()
    for i in (1, 2, 3):
        box.offer(i)
    box.stop(10)
    assert picky.records == [1, 3]


def test_what_waits_takes_up_room_until_it_is_handed_over():
    entered, release = threading.Event(), threading.Event()

    class Slow(Kept):
        def send(self, record: int) -> None:
            entered.set()
            release.wait(10)
            super().send(record)

    slow = Slow()
    box = Outbox("t", lambda: slow, 2)
    box.start()
    assert box.offer(1)
    assert entered.wait(10)
    assert box.offer(2)
    assert box.offer(3)
    assert not box.offer(4)
    release.set()
    box.stop(10)
    assert slow.records == [1, 2, 3]

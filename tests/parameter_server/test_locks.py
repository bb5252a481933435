"""The lock that readers share."""

from __future__ import annotations

import threading

import pytest

from parameter_server.locks import ReadWriteLock
from tests.polling import wait_until


def test_readers_share_it() -> None:
    lock = ReadWriteLock()
    inside = threading.Barrier(2, timeout=5)

    def read() -> None:
        with lock.reading():
            inside.wait()

    other = threading.Thread(target=read)
    other.start()
    with lock.reading():
        inside.wait()
    other.join(5)
    assert not other.is_alive()


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = ReadWriteLock()
    order: list[str] = []

    def write() -> None:
        with lock.writing():
            order.append("write")

    def read() -> None:
        with lock.reading():
            order.append("read")

    writer, reader = threading.Thread(target=write), threading.Thread(target=read)
    with lock.reading():
        writer.start()
        wait_until(lambda: lock._waiting, 5)
        reader.start()
        assert order == []
    for thread in (writer, reader):
        thread.join(5)
    assert order == ["write", "read"]


def test_writers_exclude_one_another() -> None:
    lock = ReadWriteLock()
    value = 0

    def add() -> None:
        nonlocal value
        for _ in range(300):
            with lock.writing():
                seen = value
                threading.Event().wait(0)  # lets another thread in, if the lock would
                value = seen + 1

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert value == 900


@pytest.mark.parametrize("kind", ["reading", "writing"])
def test_an_error_inside_gives_it_back(kind: str) -> None:
    lock = ReadWriteLock()
    with pytest.raises(RuntimeError, match="inside"), getattr(lock, kind)():
        raise RuntimeError("inside")
    with lock.writing():
        pass

"""The late store on disk: what was flushed is found again, what is damaged says so."""

from __future__ import annotations

import pytest

from streaming.late import LateStoreError, pack, unpack
from streaming.request import State
from streaming.rocks import RocksStore, destroy
from tests.streaming.make import feature_log

STATE = State(7, 2, 5000, 0.25, {0: 0b01}, {0: 0b11, 2: 0b11})


def test_what_was_flushed_is_found_again(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    assert store.mark is None
    log = feature_log("r", 5000)
    store.put_log("r", pack(log))
    store.put_state("r", STATE)
    store.set_mark(12, 0.5)
    store.flush()
    store.close()
    again = RocksStore(tmp_path / "late", 3600)
    assert again.state("r") == STATE
    assert unpack(again.log("r")) == log
    assert (again.mark.low, again.mark.mean) == (12, 0.5)
    assert again.state("other") is None
    assert again.log("other") is None
    assert again.size() > 0
    again.close()


def test_a_reader_sees_its_own_writes_at_once_and_a_twins_once_flushed(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    twin = store.twin()
    twin.put_state("r", STATE)
    assert store.state("r") is None
    assert twin.state("r") == STATE
    assert store.state("r") == STATE
    store.close()


def test_many_writes_do_not_wait_for_the_flush(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    for i in range(1000):
        store.put_state(f"r{i}", STATE)
    assert len(store._batch) < 1000
    store.close()


def test_a_damaged_store_says_so_and_can_be_removed(tmp_path):
    folder = tmp_path / "late"
    RocksStore(folder, 3600).close()
    for path in folder.iterdir():
        if path.is_file():
            path.write_bytes(b"damaged")
    with pytest.raises(LateStoreError, match="late"):
        RocksStore(folder, 3600)
    destroy(folder)
    RocksStore(folder, 3600).close()
    destroy(folder)
    destroy(folder)


def test_a_closed_store_takes_nothing(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    store.close()
    store.put_state("r", STATE)
    with pytest.raises(LateStoreError):
        store.flush()
    with pytest.raises(LateStoreError):
        store.state("r")

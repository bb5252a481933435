"""The late store on disk: what was flushed is found again, what is damaged says so."""

from __future__ import annotations

import msgspec
import pytest

from streaming.heads import pack, unpack
from streaming.late import FIRST, Group, LateStoreError, MemoryStore, Place, find_closed
from streaming.request import Request, State
from streaming.rocks import RocksStore, destroy
from streaming.waiting import Arrival
from tests.polling import wait_until
from tests.streaming.make import action, feature_log

STATE = State(7, 2, 5000, 0.25, b"\x01", b"\x33")


def test_what_was_flushed_is_found_again(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    assert store.mark is None
    log = feature_log("r", 5000)
    store.put_log("r", pack(log))
    store.put_state("r", STATE)
    store.set_mark(12, 34)
    store.flush()
    store.close()
    again = RocksStore(tmp_path / "late", 3600)
    assert again.state("r") == STATE
    assert again.log("r") == pack(log)
    assert unpack(again.log("r")).items == log.items
    assert (again.mark.low, again.mark.actions) == (12, 34)
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
    assert twin.states(["other", "r"]) == [None, STATE]
    twin.flush()
    assert store.state("r") == STATE
    assert store.states(["r", "other"]) == [STATE, None]
    store.close()


@pytest.mark.parametrize("on_disk", [False, True])
def test_requests_that_are_bytes_are_kept_as_those_that_are_objects(tmp_path, on_disk):
    store = RocksStore(tmp_path / "late", 3600) if on_disk else MemoryStore(10)
    kept = msgspec.structs.replace(STATE, log=pack(feature_log("r", 5000)))
    assert not store.knows_any([b"r", b"s"], parked=True)
    store.put_entries([(b"sr", msgspec.msgpack.encode(kept))])
    assert store.states(["r", "s"]) == [kept, None]
    for flushed in (False, True):
        if flushed:
            store.flush()
        assert store.knows_any([b"s", b"r"], parked=False)
        assert not store.knows_any([b"s", b"R"], parked=False)
        assert not store.knows_any([], parked=True)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("spilled", [False, True])
def test_a_closed_request_is_found_with_its_log_wherever_that_is_kept(tmp_path, on_disk, spilled):
    store = RocksStore(tmp_path / "late", 3600) if on_disk else MemoryStore(10)
    log = feature_log("r", 5000)
    request = Request(unpack(pack(log)), pack(log), 7, 2)
    if spilled:
        store.put_log("r", pack(log))
        request.packed = None
    request.hits, request.spoken = 0b1, 0b11
    store.put_closed([request])
    again = find_closed(store, "r")
    assert (again.packed, again.hits, again.spoken, again.open) == (pack(log), 0b1, 0b11, False)
    again.hits = 0b11
    store.put_closed([again])
    assert find_closed(store, "r").packed == pack(log)
    assert find_closed(store, "r").hits == 0b11
    assert find_closed(store, "other") is None
    store.put_state("early", STATE)
    assert find_closed(store, "early") is None, "its log is still to be read again"


@pytest.mark.parametrize("on_disk", [False, True])
def test_requests_that_have_parked_actions_are_known_where_these_matter(tmp_path, on_disk):
    store = RocksStore(tmp_path / "late", 3600) if on_disk else MemoryStore(10)
    arrival = Arrival(action("r", 5100), 7, 3, 0, parked=True)
    store.put_group("r", Group(3, 9000, (arrival,)))
    for flushed in (False, True):
        if flushed:
            store.flush()
        assert store.knows_any([b"q", b"r"], parked=True)
        assert not store.knows_any([b"q", b"r"], parked=False)
        assert not store.knows_any([b"q"], parked=True)


def test_many_writes_do_not_wait_for_the_flush(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    for i in range(1000):
        store.put_state(f"r{i}", STATE)
    assert len(store._pending) < 1000
    store.close()


def test_stores_that_were_opened_again_side_by_side_keep_everything_when_they_compact(tmp_path):
    """As a worker of several partitions does. The second one lost all that it held."""
    for life in range(3):
        stores = [RocksStore(tmp_path / str(number), 3600) for number in range(2)]
        for store in stores:
            store.put_state(f"r{life}", STATE)
            store.put_log(f"r{life}", pack(feature_log(f"r{life}", 5000)))
            store.set_mark(life, life)
            store.flush()
            store._db.compact_range(None, None)
            assert [store.state(f"r{i}") for i in range(life + 1)] == [STATE] * (life + 1)
            assert all(store.log(f"r{i}") for i in range(life + 1))
            store.close()
    assert RocksStore(tmp_path / "1", 3600).mark.low == 2


def test_what_is_too_old_goes_when_it_compacts(tmp_path):
    store = RocksStore(tmp_path / "late", 1)
    store.put_state("r", STATE)
    store.flush()

    def gone() -> bool:
        store._db.compact_range(None, None)
        return store.state("r") is None

    wait_until(gone, 30)
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


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_groups_of_parked_actions_are_found_by_request_and_in_order(tmp_path, kind):
    store = RocksStore(tmp_path / "late", 3600) if kind == "disk" else MemoryStore(10)
    for request_id, offset in (("b", 300), ("a", 2), ("c", 2)):
        store.put_group(
            request_id, Group(offset, 9000, (Arrival(action(request_id, 5000), 7, offset, 1, True),))
        )
    assert store.group("a").arrivals[0].action == action("a", 5000)
    assert store.group("d") is None
    places = [FIRST]
    while (place := store.next_group(places[-1])) is not None:
        places.append(place)
    assert places[1:] == [Place(2, "a"), Place(2, "c"), Place(300, "b")]
    store.drop_group(Place(2, "a"))
    assert store.next_group(FIRST) == Place(2, "c")
    assert store.group("a") is None


def test_a_store_of_another_version_is_made_anew(tmp_path):
    store = RocksStore(tmp_path / "late", 3600)
    store._put(b"m", store._encode([7, 1, 0.5, 1]))
    store.flush()
    store.close()
    with pytest.raises(LateStoreError, match="version 1; legal is 3"):
        RocksStore(tmp_path / "late", 3600)

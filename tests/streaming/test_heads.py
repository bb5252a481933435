"""Feature logs that are looked into no further than they need: what is sound passes as it came, the rest not."""

from __future__ import annotations

import msgspec
import pytest

from schema.codec import FEATURE_LOGS
from schema.errors import InvalidMessage
from schema.records import Features, Heartbeat, IdColumn, column
from streaming import heads
from tests.streaming.make import feature_log


def log_with(*items: IdColumn, dense: bytes = b""):
    return msgspec.structs.replace(feature_log("r", 5000), features=Features(items=items, item_dense=dense))


def ids(count: int, first: int = 1) -> bytes:
    return column(range(first, first + count), "<u8")


SOUND = log_with(IdColumn(5, ids(4), column((1, 2, 1), "<u2")), IdColumn(6, ids(3)))
MORE = log_with(IdColumn(5, ids(4, 100), column((1, 2, 1), "<u2")), IdColumn(6, ids(3, 7)))
MOVED = log_with(IdColumn(5, ids(4), column((2, 1, 1), "<u2")), IdColumn(6, ids(3)))
TOO_LONG = log_with(IdColumn(5, ids(4), column((1, 2, 2), "<u2")), IdColumn(6, ids(3)))
SWAPPED = log_with(IdColumn(5, ids(3), column((1, 2, 1), "<u2")), IdColumn(6, ids(4)))


def problem(outlines, log):
    packed = heads.pack(log)
    return outlines.problem(heads.unpack(packed), packed)


def test_what_is_told_of_the_next_log_does_not_depend_on_those_before():
    outlines = heads.Outlines()
    for log in (SOUND, MORE, TOO_LONG, MORE, SWAPPED, MOVED, SOUND, SWAPPED, TOO_LONG, MOVED):
        assert problem(outlines, log) == log.problem()
    assert problem(outlines, TOO_LONG) is not None
    assert len(heads.pack(TOO_LONG)) == len(heads.pack(SOUND)), "only its outline tells it apart"


def test_features_of_an_outline_that_was_seen_are_not_decoded(monkeypatch):
    outlines = heads.Outlines()
    assert problem(outlines, SOUND) is None
    monkeypatch.setattr(heads, "_whole", lambda _: pytest.fail("decoded"))
    assert problem(outlines, MORE) is None


def test_features_that_are_none_are_a_problem():
    packed = msgspec.msgpack.encode(
        [1, "r", 7, 5000, 0, [], SOUND.items, SOUND.positions, ["no", "features"]]
    )
    assert "features" in heads.Outlines().problem(heads.unpack(packed), packed)


def test_a_message_is_read_as_the_codec_reads_it_and_each_record_is_kept_as_it_came():
    value = FEATURE_LOGS.encode([SOUND, Heartbeat(9), MORE])
    read = heads.read(value)
    assert [type(record).__name__ for _, record in read] == ["Head", "Heartbeat", "Head"]
    assert FEATURE_LOGS.decode(heads.envelope(read[2][0])) == [MORE]
    first = read[0][1]
    assert (first.request_id, first.items, first.scores) == (SOUND.request_id, SOUND.items, SOUND.scores)
    assert heads.features_of(first.features) == SOUND.features


@pytest.mark.parametrize("value", [None, b"\x01short", FEATURE_LOGS.encode([SOUND])[:-1], b"\x09" * 20])
def test_what_the_codec_refuses_is_refused(value):
    with pytest.raises(InvalidMessage) as ours:
        heads.read(value)
    with pytest.raises(InvalidMessage) as theirs:
        FEATURE_LOGS.decode(value)
    assert ours.value.reason == theirs.value.reason

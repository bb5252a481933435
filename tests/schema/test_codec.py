"""The codec: what goes in comes out, and anything else is one typed error."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema import codec
from schema.errors import InvalidMessage
from schema.records import Action, ActionBatch, SampleBlock
from tests.schema import records


@dataclass(frozen=True)
class Topic:
    name: str
    codec: codec.Codec[Any]
    envelopes: st.SearchStrategy[list[Any]]


TOPICS = [
    Topic(
        "feature_logs", codec.FEATURE_LOGS, st.lists(records.feature_logs() | records.heartbeats, max_size=3)
    ),
    Topic(
        "user_actions", codec.USER_ACTIONS, st.lists(records.action_batches | records.heartbeats, max_size=3)
    ),
    Topic("training_samples", codec.TRAINING_SAMPLES, st.lists(records.sample_blocks(), max_size=3)),
    Topic("dead_letters", codec.DEAD_LETTERS, st.lists(records.dead_letters, max_size=3)),
    Topic("catalogue", codec.CATALOGUE, st.lists(records.profiles, max_size=3)),
]
each_topic = pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)


@each_topic
@given(data=st.data())
def test_any_envelope_survives_the_round_trip(topic: Topic, data: st.DataObject) -> None:
    envelope = data.draw(topic.envelopes)
    assert topic.codec.decode(topic.codec.encode(envelope)) == envelope


@each_topic
@given(data=st.data())
def test_any_altered_byte_is_refused(topic: Topic, data: st.DataObject) -> None:
    message = bytearray(topic.codec.encode(data.draw(topic.envelopes)))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidMessage):
        topic.codec.decode(bytes(message))


@each_topic
@given(data=st.data())
def test_any_truncation_is_refused(topic: Topic, data: st.DataObject) -> None:
    message = topic.codec.encode(data.draw(topic.envelopes))
    with pytest.raises(InvalidMessage):
        topic.codec.decode(message[: data.draw(st.integers(0, len(message) - 1))])


@each_topic
@given(message=st.binary(max_size=200))
def test_noise_is_refused(topic: Topic, message: bytes) -> None:
    with pytest.raises(InvalidMessage):
        topic.codec.decode(message)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"\x02rest", "version"),
        (b"\x01abc", "truncated"),
        (b"\x01\x00\x00\x00\x00\x90", "checksum"),
    ],
)
def test_the_reason_is_named(message: bytes | None, reason: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        codec.FEATURE_LOGS.decode(message)
    assert caught.value.reason == reason


def test_records_of_another_topic_are_refused() -> None:
    message = codec.USER_ACTIONS.encode([ActionBatch(7, ())])
    with pytest.raises(InvalidMessage, match="schema"):
        codec.FEATURE_LOGS.decode(message)


def test_a_record_with_fields_of_a_later_version_is_read() -> None:
    """Fields are appended, so an older reader leaves out what it does not know."""
    encoded = msgspec.msgpack.encode([[3, 7, [["r", 1, "click", 5, 1.0, "new"]], "new"]])
    message = b"%c%b%b" % (codec.VERSION, zlib.crc32(encoded).to_bytes(4, "little"), encoded)
    assert codec.USER_ACTIONS.decode(message) == [ActionBatch(7, (Action("r", 1, "click", 5, 1.0),))]


@given(block=records.sample_blocks(), fields=st.integers(16, 19))
def test_a_block_of_an_earlier_version_is_read(block: SampleBlock, fields: int) -> None:
    """Fields were appended, so what an older writer left out has its default."""
    later = ("scores", "retract", "late_offset", "propensities")[fields - 16 :]
    defaults = {"scores": b"", "retract": b"", "late_offset": -1, "propensities": b""}
    old = msgspec.msgpack.encode([msgspec.msgpack.decode(msgspec.msgpack.encode(block))[:fields]])
    message = b"%c%b%b" % (codec.VERSION, zlib.crc32(old).to_bytes(4, "little"), old)
    (read,) = codec.TRAINING_SAMPLES.decode(message)
    assert read == msgspec.structs.replace(block, **{name: defaults[name] for name in later})


class TestJsonActions:
    def test_a_batch_is_read(self) -> None:
        action = {"request_id": "r", "item_id": 3, "kind": "like", "event_time": 99}
        message = json.dumps({"user_id": 7, "actions": [action]}).encode()
        assert codec.USER_ACTIONS.decode(message) == [ActionBatch(7, (Action("r", 3, "like", 99),))]

    @pytest.mark.parametrize(
        "message",
        [
            b"{",
            b'{"user_id": 7}',
            b'{"user_id": -1, "actions": []}',
            b'{"user_id": 9223372036854775808, "actions": []}',
            b'{"user_id": 7, "actions": [{"item_id": 3}]}',
            b'{"user_id": 7, "actions": [], "extra": 1}',
            b'{"user_id": "\xff", "actions": []}',
            b'{"a":' * 5000,
        ],
    )
    def test_anything_else_is_refused(self, message: bytes) -> None:
        with pytest.raises(InvalidMessage):
            codec.USER_ACTIONS.decode(message)

"""What the replica learns from messages, bad ones among them."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client import REGISTRY

from schema.codec import CATALOGUE, FEATURE_LOGS, USER_ACTIONS
from schema.features import FeatureBuilder
from schema.records import Action, ActionBatch, FeatureLog, Features, Heartbeat, ModelVersion, Profile, column
from serving.intake import Intake, Stream
from tests.serving.parts import CONFIG, NOW, did, item, message


@pytest.fixture
def intake() -> Intake:
    return Intake(CONFIG, FeatureBuilder(CONFIG.features))


def shown(user: int, *items: int, at: int = NOW) -> FeatureLog:
    places = column(range(len(items)), "<u2")
    return FeatureLog("r", user, at, 0, ModelVersion(), column(items, "<i8"), places, Features())


def skipped(stream: Stream) -> float:
    return REGISTRY.get_sample_value("headwater_intake_skipped_total", {"topic": stream}) or 0.0


def test_popular_items_come_first_and_then_the_newest(intake):
    batches = [item(1, 10), item(2, 30), item(3, 20), did(7, "click", 3), did(8, "like", 1)]
    intake.take([message(b) for b in batches], NOW)
    assert intake.candidates.items == (1, 3, 2)


def test_candidates_follow_within_a_second_also_without_further_messages(intake):
    intake.take([message(item(1))], NOW)
    intake.take([message(item(2, NOW + 1))], NOW + 100)
    assert intake.candidates.items == (1,)
    intake.take([], NOW + 1000)
    assert set(intake.candidates.items) == {1, 2}


def test_what_was_popular_before_a_restart_is_a_candidate_without_any_message(intake):
    before = Intake(CONFIG, FeatureBuilder(CONFIG.features))
    before.take([message(did(7, "click", 3))], NOW)
    intake.popularity.restore(before.popularity.state())
    intake.take([], NOW + 5)
    assert intake.candidates.items == (3,)


def test_actions_of_no_task_are_not_popular_but_may_be_in_a_history(intake):
    intake.take([message(did(7, "share", 5)), message(did(7, "long_view", 6))], NOW)
    assert intake.candidates.items == (6,)
    assert intake.histories.of(7) == {"watched": [], "long_viewed": [6], "liked": []}


def test_exposures_come_from_feature_logs_alone(intake):
    intake.take([message(shown(7, 5, 6)), message(did(7, "exposed", 9))], NOW)
    assert intake.histories.of(7)["watched"] == [5, 6]
    assert intake.candidates.items == ()


def test_an_action_from_the_future_counts_as_of_now(intake):
    intake.take([message(did(7, "click", 1, at=NOW * 2)), message(did(7, "like", 2))], NOW)
    assert intake.candidates.items == (2, 1)
    assert intake.popularity.count(1, NOW) == pytest.approx(1.0, rel=1e-5)


def test_an_exposure_from_the_future_does_not_stay_the_newest(intake):
    intake.take([message(shown(7, 1, at=NOW * 2)), message(shown(7, 2, at=NOW))], NOW)
    assert intake.histories.of(7)["watched"] == [1, 2]


def test_an_item_from_the_future_does_not_stay_the_newest(intake):
    intake.take([message(item(1, NOW * 2))], NOW)
    intake.take([message(item(2, NOW + 1)), message(item(3, NOW + 2))], NOW + 1000)
    assert intake.candidates.items == (3, 2, 1)


def test_json_actions_and_heartbeats_are_fine(intake):
    foreign = (
        b'{"user_id": 7, "actions": [{"request_id": "r", "item_id": 4, "kind": "like", "event_time": 5}]}'
    )
    beat = [Heartbeat(NOW)]
    intake.take(
        [
            (Stream.ACTIONS, foreign),
            (Stream.ACTIONS, USER_ACTIONS.encode(beat)),
            (Stream.LOGS, FEATURE_LOGS.encode(beat)),
        ],
        NOW,
    )
    assert intake.histories.of(7)["liked"] == [4]


@pytest.mark.parametrize("value", [None, b"", b"\x01", b"garbage", b"{", CATALOGUE.encode([item(1)])[:-1]])
@pytest.mark.parametrize("stream", list(Stream))
def test_what_cannot_be_read_is_counted_and_skipped(intake, stream, value):
    before = skipped(stream)
    intake.take([(stream, value), message(item(2)), message(did(7, "like", 3))], NOW)
    assert skipped(stream) == before + 1
    assert set(intake.candidates.items) == {2, 3}


def test_records_of_no_use_are_counted_and_the_others_of_their_message_taken(intake):
    before = skipped(Stream.CATALOGUE), skipped(Stream.LOGS)
    broken = msgspec.structs.replace(shown(7, 1), items=b"1234567")
    intake.take(
        [
            (Stream.CATALOGUE, CATALOGUE.encode([Profile("planet", 1, 1, {}), item(2)])),
            (Stream.LOGS, FEATURE_LOGS.encode([broken, shown(7, 3)])),
        ],
        NOW,
    )
    assert (skipped(Stream.CATALOGUE), skipped(Stream.LOGS)) == (before[0] + 1, before[1] + 1)
    assert intake.candidates.items == (2,)
    assert intake.histories.of(7)["watched"] == [3]


def test_a_batch_of_many_kinds(intake):
    actions = tuple(
        Action("r", i, kind, NOW + i) for i, kind in enumerate(["click", "like", "long_view", "like"])
    )
    intake.take([message(ActionBatch(7, actions))], NOW + 10)
    assert intake.histories.of(7) == {"watched": [], "long_viewed": [2], "liked": [1, 3]}
    assert intake.candidates.items == (3, 1, 2, 0)

"""A log as records: nothing lost, nothing twice, nothing known too early."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from schema.codec import FEATURE_LOGS, USER_ACTIONS
from schema.config import Config
from schema.ids import feature_id
from schema.records import POSITION_MISSING, Action, ActionBatch, FeatureLog
from simulation.events import Event, events, profiles
from simulation.kuairand import LABELS, read
from simulation.log import EXPOSED, Log
from tests.simulation.logs import log_of, replay_config, write


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return read(write(tmp_path_factory.mktemp("kuairand")))


@pytest.fixture(scope="module")
def config() -> Config:
    return replay_config()


@pytest.fixture(scope="module")
def sent(log: Log, config: Config) -> list[Event]:
    return list(events(log, config))


def _requests(sent: list[Event]) -> dict[str, FeatureLog]:
    return {e.record.request_id: e.record for e in sent if isinstance(e.record, FeatureLog)}


def _actions(sent: list[Event]) -> list[Action]:
    return [a for e in sent if isinstance(e.record, ActionBatch) for a in e.record.actions]


def test_every_exposure_is_one_impression(log: Log, sent: list[Event]) -> None:
    shown = Counter(
        (r.user_id, item, r.surface) for r in _requests(sent).values() for item in r.item_ids().tolist()
    )
    expected = Counter(zip(log.users.tolist(), log.items.tolist(), log.surfaces.tolist(), strict=True))
    assert shown == expected
    assert len(_requests(sent)) == sum(isinstance(e.record, FeatureLog) for e in sent)


def test_an_item_is_once_in_a_request(sent: list[Event]) -> None:
    for request in _requests(sent).values():
        assert len(set(request.item_ids().tolist())) == len(request)


def test_records_are_in_event_time_order(sent: list[Event]) -> None:
    times = [e.time for e in sent]
    assert times == sorted(times)
    for event in sent:
        if isinstance(event.record, FeatureLog):
            assert event.record.event_time == event.time
        else:
            assert {a.event_time for a in event.record.actions} == {event.time}


def test_records_are_whole_and_their_positions_unknown(sent: list[Event]) -> None:
    for request in _requests(sent).values():
        assert request.problem() is None
        assert set(np.frombuffer(request.positions, "<u2").tolist()) == {POSITION_MISSING}


def test_actions_follow_their_request_inside_the_window(sent: list[Event], config: Config) -> None:
    seen: dict[str, FeatureLog] = {}
    for event in sent:
        if isinstance(event.record, FeatureLog):
            seen[event.record.request_id] = event.record
            continue
        for action in event.record.actions:
            request = seen[action.request_id]
            assert request.user_id == event.record.user_id
            assert action.item_id in request.item_ids()
            late = action.event_time - request.event_time
            assert 0 < late < config.streaming.window_seconds * 1000


def test_an_action_follows_its_own_exposure() -> None:
    log = log_of(times=[0, 50_000], play_ms=[0, 0], outcomes={"click": [1, 1]})
    found = _actions(list(events(log, replay_config())))
    assert [(a.item_id, a.event_time) for a in found] == [(0, 1_000), (1, 51_000)]


def test_labels_can_be_recovered_from_the_actions(log: Log, sent: list[Event]) -> None:
    requests = _requests(sent)
    found = Counter((a.kind, requests[a.request_id].user_id, a.item_id) for a in _actions(sent))
    expected: Counter[tuple[str, int, int]] = Counter()
    for kind in LABELS:
        rows = np.flatnonzero(log.outcomes[kind])
        expected.update((kind, int(log.users[r]), int(log.items[r])) for r in rows)
    assert found == expected
    # and per impression, not only per pair of user and item
    assert len({(a.kind, a.request_id, a.item_id) for a in _actions(sent)}) == sum(found.values())


def test_what_one_user_does_in_one_millisecond_is_one_batch(sent: list[Event]) -> None:
    log = log_of(times=[0, 0], outcomes={"click": [1, 1], "like": [1, 0]}, play_ms=[0, 0])
    batches = [e.record for e in events(log, replay_config()) if isinstance(e.record, ActionBatch)]
    assert [[(a.kind, a.item_id) for a in b.actions] for b in batches] == [
        [("click", 0), ("click", 1)],
        [("like", 0)],
    ]


def _history(request: FeatureLog, config: Config, name: str) -> list[int]:
    slot = next(s.slot for s in config.features.slots if s.source == f"history.{name}")
    column = next(c for c in request.features.context if c.slot == slot)
    return column.values().tolist()


def test_histories_hold_what_had_happened_and_nothing_more(
    log: Log, sent: list[Event], config: Config
) -> None:
    """Against a slow oracle: all outcomes strictly before the request's time, oldest first."""
    happened: list[tuple[int, int, int, str, int]] = [
        (int(t), 0, int(u), EXPOSED, int(i)) for t, u, i in zip(log.times, log.users, log.items, strict=True)
    ]
    requests = _requests(sent)
    happened += [(a.event_time, 1, requests[a.request_id].user_id, a.kind, a.item_id) for a in _actions(sent)]
    happened.sort(key=lambda outcome: outcome[:2])
    for request in requests.values():
        for history in config.features.histories:
            slot = next(s.slot for s in config.features.slots if s.source == f"history.{history.name}")
            (action,) = history.actions
            items = list(log.seeds[action].get(request.user_id, []))
            items += [
                item
                for time, _, user, kind, item in happened
                if user == request.user_id and kind == action and time < request.event_time
            ]
            expected = [feature_id(slot, item) for item in items[-history.length :]]
            assert _history(request, config, history.name) == expected


def test_a_label_changes_no_feature_of_its_own_request() -> None:
    """Whatever an exposure led to, its request and all earlier ones are the same, byte for byte."""
    times = [0, 10_000, 100_000, 200_000]
    quiet = log_of(times=times, play_ms=[5_000] * 4)
    loud = log_of(
        times=times, play_ms=[5_000] * 4, outcomes={"like": [0, 0, 1, 0], "long_view": [0, 0, 1, 0]}
    )
    without = _requests(list(events(quiet, replay_config())))
    with_ = _requests(list(events(loud, replay_config())))
    assert [without[i] == with_[i] for i in with_] == [True, True, False]


def test_two_runs_give_the_same_bytes(log: Log, sent: list[Event], config: Config) -> None:
    def encoded(records: list[Event]) -> list[bytes]:
        return [
            (FEATURE_LOGS if isinstance(e.record, FeatureLog) else USER_ACTIONS).encode([e.record])
            for e in records
        ]

    assert encoded(list(events(log, config))) == encoded(sent)


def test_a_user_without_profile_or_history_is_replayed(sent: list[Event]) -> None:
    unknown = [r for r in _requests(sent).values() if r.user_id == 5]
    assert unknown
    assert _history(unknown[0], replay_config(), "watched") == []


def test_profiles_are_items_then_users(log: Log) -> None:
    found = [(p.kind, p.id) for p in profiles(log)]
    assert found == [("item", i) for i in range(12)] + [("user", u) for u in range(5)]


def test_head_is_the_beginning_of_the_log(log: Log, config: Config) -> None:
    cut = _requests(list(events(log.head(37), config)))
    assert sum(len(r) for r in cut.values()) == 37


def test_the_real_log_whole(data_dir: Path, config: Config) -> None:
    log = read(data_dir / "kuairand")
    impressions = 0
    kinds: Counter[str] = Counter()
    requested: dict[str, int] = {}
    last = latest = 0
    for time, record in events(log, config):
        assert time >= last
        last = time
        if isinstance(record, FeatureLog):
            impressions += len(record)
            requested[record.request_id] = time
        else:
            kinds.update(a.kind for a in record.actions)
            latest = max(latest, *(time - requested[a.request_id] for a in record.actions))
    assert impressions == 167_065
    assert kinds == {kind: int(happened.sum()) for kind, happened in log.outcomes.items()}
    assert (kinds["click"], kinds["long_view"], kinds["like"]) == (75_461, 53_225, 2_964)
    assert latest < config.streaming.window_seconds * 1000

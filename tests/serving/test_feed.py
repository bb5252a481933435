"""Feeds: what is ranked, by which parameters, and what is logged of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.batch import Collator
from models.dense import dump_payload
from schema.features import FeatureBuilder, Moment
from schema.ids import feature_id
from serving.feed import NoCandidates
from serving.replica import new_model
from tests.polling import wait_until
from tests.serving.parts import CONFIG, NOW, Stage, did, item, video_ids

ITEMS = list(range(100, 130))
SLOTS = {s.name: s.slot for s in CONFIG.features.slots}


@pytest.fixture
def stage() -> Stage:
    stage = Stage()
    stage.learn(*[item(i) for i in ITEMS], did(7, "like", 110, 111), did(8, "click", 112))
    stage.learn()
    return stage


def test_without_a_model_the_order_is_by_popularity(stage):
    stage.replica.sync.run_round()
    feed = stage.replica.feeds.feed(7, 0, 4)
    assert feed.items[:3] == (110, 111, 112)
    assert feed.final is None
    assert feed.version.dense == 0
    assert [clock for _, clock in feed.version.shards] == [0, 0]


def test_with_a_model_the_order_is_by_the_weighted_sum_of_the_tasks(stage):
    stage.shards.push(1, video_ids(ITEMS), 1.0)
    stage.shards.publish(4)
    stage.replica.sync.run_round()
    feed = stage.replica.feeds.feed(7, 1, 5)
    weights = np.array([t.weight for t in CONFIG.tasks])
    assert feed.scores.shape == (5, 3)
    np.testing.assert_allclose(feed.final, feed.scores @ weights, rtol=1e-6)
    assert (np.diff(feed.final) <= 0).all()
    assert feed.version.dense == 4
    everything = stage.replica.feeds.feed(7, 1, 100)
    assert sorted(everything.items) == ITEMS
    assert everything.items[:5] == feed.items


def test_scores_are_those_of_the_model_on_the_shards_own_rows(stage):
    stage.shards.push(1, [*video_ids(ITEMS), feature_id(SLOTS["user"], 7)], 1.0)
    stage.shards.publish(4)
    stage.replica.sync.run_round()
    feed = stage.replica.feeds.feed(7, 1, 30)
    builder = FeatureBuilder(CONFIG.features)
    items = [builder.item(i, item(i)) for i in feed.items]
    moment = Moment(feed.event_time, 1, {"liked": [110, 111]})
    batch = Collator(CONFIG.features).collate(
        [builder.build(builder.user(7, None), moment, items)], [len(items)]
    )
    rows = np.array([[stage.shards.vector(i) for i in batch.ids["embedding"]]], np.float32)[0]
    torch.manual_seed(4)
    with torch.inference_mode():
        logits = new_model(CONFIG)(batch, {"embedding": torch.from_numpy(rows)})
    np.testing.assert_allclose(feed.scores, torch.sigmoid(logits).numpy(), rtol=1e-5)


def test_the_log_holds_what_was_served(stage):
    stage.shards.publish(4)
    stage.replica.sync.run_round()
    stage.replica.outboxes.start()
    feed = stage.replica.feeds.feed(7, 3, 6)
    wait_until(lambda: stage.logs.records, 10)
    (log,) = stage.logs.records
    assert log.problem() is None
    assert (log.request_id, log.user_id, log.surface) == (feed.request_id, 7, 3)
    assert log.event_time == feed.event_time == stage.clock()
    assert log.item_ids().tolist() == list(feed.items)
    assert np.frombuffer(log.positions, "<u2").tolist() == list(range(6))
    np.testing.assert_allclose(np.frombuffer(log.scores, "<f4").reshape(6, 3), feed.scores, rtol=1e-5)
    assert log.model == feed.version
    columns = {c.slot: c.values().tolist() for c in (*log.features.context, *log.features.items)}
    assert columns[SLOTS["video"]] == [feature_id(SLOTS["video"], i) for i in feed.items]
    assert columns[SLOTS["user"]] == [feature_id(SLOTS["user"], 7)]
    assert columns[SLOTS["liked"]] == [feature_id(SLOTS["liked"], i) for i in (110, 111)]
    stage.replica.outboxes.stop(10)


def test_without_any_item_there_is_no_feed():
    with pytest.raises(NoCandidates, match="/v1/items"):
        Stage().replica.feeds.feed(1, 0, 10)


def test_items_that_only_actions_tell_of_can_be_served():
    stage = Stage()
    stage.learn(did(7, "like", 5))
    stage.shards.publish(1)
    stage.replica.sync.run_round()
    assert stage.replica.feeds.feed(1, 0, 10).items == (5,)


def test_a_model_gone_wild_is_not_asked_for_an_order(stage):
    model = new_model(CONFIG)
    with torch.no_grad():
        model.shortcut.weight.fill_(float("nan"))
    stage.shards.publish(4, payload=dump_payload(model))
    stage.replica.sync.run_round()
    feed = stage.replica.feeds.feed(7, 0, 3)
    assert feed.items == (110, 111, 112)
    assert (feed.final, feed.version.dense) == (None, 0)


def test_a_full_outbox_loses_the_log_but_not_the_feed():
    stage = Stage(capacity=10)
    stage.learn(*[item(i) for i in ITEMS])
    for _ in range(3):
        assert len(stage.replica.feeds.feed(7, 0, 6).items) == 6
    assert stage.replica.outboxes.feature_logs.offered == 1
    assert stage.replica.feeds.made == 3
    assert stage.clock() > NOW

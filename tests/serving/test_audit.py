"""The skew audit: the log gives the served scores bit for bit, and a log that does not is noticed."""

from __future__ import annotations

import msgspec
import pytest

from serving.audit import Audit
from serving.explain import NotExplained, find
from tests.polling import wait_until
from tests.serving.parts import CONFIG, Stage, did, item, video_ids

ITEMS = list(range(100, 130))


@pytest.fixture
def stage() -> Stage:
    serving = msgspec.structs.replace(CONFIG.serving, explore_share=0.3)
    stage = Stage(msgspec.structs.replace(CONFIG, serving=serving))
    stage.learn(*[item(i) for i in ITEMS], did(7, "like", 110, 111))
    stage.shards.push(1, video_ids(ITEMS), 1.0)
    stage.shards.publish(4, step=9)
    stage.replica.sync.run_round()
    audit = Audit(stage.replica.config, share=1.0, kept=50)
    stage.replica.audit = stage.replica.feeds._audit = audit
    yield stage
    audit.stop(10)


def test_every_log_gives_the_scores_that_were_served(stage):
    for user in range(40):
        stage.replica.feeds.feed(user, 0, 1 + user % 10)
    stage.replica.audit.start()
    wait_until(lambda: stage.replica.audit.matched == 40, 20)
    assert stage.replica.audit.mismatched == 0


def test_a_log_that_gives_others_is_counted(stage, caplog):
    audit = stage.replica.audit
    feed = stage.replica.feeds.feed(7, 0, 5)
    sampled = audit._sampled[feed.request_id]
    forged = msgspec.structs.replace(sampled.log(), request_id="0" * 32, scores=bytes(60))
    audit.note(forged, stage.replica.feeds._ranker.rank(forged.features, 5))
    audit.start()
    wait_until(lambda: audit.matched + audit.mismatched == 2, 20)
    assert (audit.matched, audit.mismatched) == (1, 1)
    assert "does not give the scores" in caplog.text


def test_a_request_is_explained_after_its_parameters_are_gone(stage):
    body = stage.post("/v1/feed", {"user_id": 7, "size": 4}).json()
    stage.shards.push(2, video_ids(ITEMS), -1.0)
    stage.shards.publish(5, step=10)
    stage.replica.sync.run_round()
    found = stage.get(f"/v1/explain/{body['request_id']}").json()
    assert found["same_bits"]
    assert found["model"] == body["model"]
    assert found["context"]["liked"] == [110, 111]
    for shown, explained in zip(body["items"], found["items"], strict=True):
        assert explained["item_id"] == shown["item_id"] == explained["slots"]["video"][0]
        assert explained["served"] == explained["again"] == shown["scores"]
        assert 0 < explained["propensity"] <= 1


def test_a_request_that_is_not_kept_is_not_explained(stage):
    answer = stage.get("/v1/explain/nobody")
    assert answer.status_code == 404
    assert "not kept here" in answer.json()["detail"]
    with pytest.raises(NotExplained, match=r"(?s)nobody cannot be explained.*/v1/explain/nobody"):
        find(CONFIG, "nobody")


def test_only_the_last_are_kept(stage):
    first = stage.replica.feeds.feed(1, 0, 3).request_id
    for user in range(50):
        stage.replica.feeds.feed(user, 0, 3)
    assert stage.replica.audit.explain(first) is None

"""The skew audit: the log gives the served scores bit for bit, and a log that does not is noticed."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import msgspec
import pytest

from runtime.ports import free_port
from schema.codec import FEATURE_LOGS
from schema.config_file import load_config
from schema.records import FeatureLog, Heartbeat
from serving.audit import Audit
from serving.explain import NotExplained, find
from tests.polling import wait_until
from tests.serving.parts import CONFIG, Stage, did, item, video_ids

ITEMS = list(range(100, 130))
LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


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
        assert explained["served"] == explained["again"] == pytest.approx(shown["scores"], rel=1e-5)
        assert 0 < explained["propensity"] <= 1


def test_a_request_that_is_not_kept_is_not_explained(stage):
    answer = stage.get("/v1/explain/nobody")
    assert answer.status_code == 404
    assert "not kept here" in answer.json()["detail"]
    nowhere = {"serving.replicas.0.port": free_port(), "kafka.bootstrap": f"127.0.0.1:{free_port()}"}
    config = load_config(LOCAL, nowhere)
    with pytest.raises(NotExplained, match=r"(?s)nobody cannot be explained.*/v1/explain/nobody.*topic"):
        find(config, "nobody")


def logged(stage: Stage) -> FeatureLog:
    """The log of a feed that nobody kept."""
    made = stage.replica.feeds.make(7, 0, 4)
    stage.replica.feeds.note(made)
    return stage.replica.outboxes.feature_logs._waiting[-1]


def posted(stage: Stage, log: FeatureLog) -> httpx.Response:
    return stage.post("/v1/explain", {"envelope": base64.b64encode(FEATURE_LOGS.encode([log])).decode()})


def test_any_log_is_scored_again_while_its_parameters_are_served(stage):
    log = logged(stage)
    found = posted(stage, log).json()
    assert found["same_bits"] is True
    assert found["context"]["liked"] == [110, 111]
    forged = msgspec.structs.replace(log, scores=bytes(len(log.scores)))
    assert posted(stage, forged).json()["same_bits"] is False


def test_when_they_are_gone_the_log_is_told_all_the_same(stage):
    log = logged(stage)
    stage.shards.push(2, video_ids(ITEMS), -1.0)
    stage.replica.sync.run_round()
    found = posted(stage, log).json()
    assert found["same_bits"] is None
    assert found["model"]["dense"] == log.model.dense
    assert [i["item_id"] for i in found["items"]] == log.item_ids().tolist()
    assert all(i["served"] and not i["again"] for i in found["items"])


@pytest.mark.parametrize(
    ("envelope", "says"),
    [
        ("no base 64!", "base64"),
        (base64.b64encode(b"what").decode(), "version byte"),
        (base64.b64encode(FEATURE_LOGS.encode([])).decode(), "0 records"),
        (base64.b64encode(FEATURE_LOGS.encode([Heartbeat(5)])).decode(), "1 records; legal is one"),
    ],
)
def test_what_is_no_log_is_refused(stage, envelope, says):
    answer = stage.post("/v1/explain", {"envelope": envelope})
    assert answer.status_code == 409
    assert says.lower() in answer.json()["detail"].lower()


def test_a_log_of_other_features_is_refused(stage):
    log = logged(stage)
    bare = msgspec.structs.replace(log, features=msgspec.structs.replace(log.features, item_dense=b""))
    assert posted(stage, bare).status_code == 409
    assert posted(stage, msgspec.structs.replace(log, scores=log.scores * 2)).status_code == 409


def test_only_the_last_are_kept(stage):
    first = stage.replica.feeds.feed(1, 0, 3).request_id
    for user in range(50):
        stage.replica.feeds.feed(user, 0, 3)
    assert stage.replica.audit.explain(first) is None

"""The HTTP API: answers, records, bounds, and that nothing sent makes it fail."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest
from anyio import to_thread
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import logs
from schema.records import Action, ActionBatch, Profile
from serving.gate import MAX_BODY
from tests.polling import wait_until
from tests.serving.parts import CONFIG, NOW, TABLE, Stage, did, item, video_ids

ITEMS = list(range(100, 130))
ACTION = {"request_id": "r", "item_id": 5, "kind": "like", "event_time": NOW}
BIG = 1 << 63


@pytest.fixture
def stage() -> Stage:
    """A replica that is ready, with items and dense weights; its outboxes do not run."""
    stage = Stage()
    stage.learn(*[item(i) for i in ITEMS])
    stage.shards.push(1, video_ids(ITEMS), 1.0)
    stage.shards.publish(4, step=9)
    stage.replica.sync.run_round()
    return stage


def test_a_feed(stage):
    answer = stage.post("/v1/feed", {"user_id": 7, "surface": 1, "size": 3})
    assert answer.status_code == 200
    feed = answer.json()
    assert len(feed["request_id"]) == 32
    assert feed["event_time"] == stage.clock()
    assert [i["position"] for i in feed["items"]] == [0, 1, 2]
    assert feed["model"]["dense"] == 4
    assert [clock for _, clock in feed["model"]["shards"]] == [1, 1]
    for shown in feed["items"]:
        assert shown["item_id"] in ITEMS
        assert set(shown["scores"]) == {"click", "long_view", "like"}
        weighted = sum(shown["scores"][t.name] * t.weight for t in CONFIG.tasks)
        assert shown["score"] == pytest.approx(weighted, rel=1e-5)


def test_a_feed_has_the_configured_size_unless_asked_otherwise(stage):
    assert len(stage.post("/v1/feed", {"user_id": 7}).json()["items"]) == CONFIG.serving.feed_size


def test_a_feed_by_popularity_has_no_scores():
    stage = Stage()
    stage.learn(item(1), did(3, "like", 2))
    feed = stage.post("/v1/feed", {"user_id": 7}).json()
    assert [(i["item_id"], i["score"], i["scores"]) for i in feed["items"]] == [(2, 0, {}), (1, 0, {})]
    assert feed["model"] == {"dense": 0, "shards": [[0, 0], [0, 0]]}


def test_without_items_a_feed_is_unavailable_and_says_why():
    answer = Stage().post("/v1/feed", {"user_id": 7})
    assert answer.status_code == 503
    assert "/v1/items" in answer.json()["detail"]


def test_actions_are_produced_as_one_batch(stage):
    stage.replica.outboxes.start()
    body = {"user_id": BIG - 1, "actions": [ACTION, {**ACTION, "kind": "any name", "value": 2}]}
    answer = stage.post("/v1/actions", body)
    assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
    wait_until(lambda: stage.actions.records, 10)
    expected = (Action("r", 5, "like", NOW, 1.0), Action("r", 5, "any name", NOW, 2.0))
    assert stage.actions.records == [ActionBatch(BIG - 1, expected)]
    stage.replica.outboxes.stop(10)


def test_profiles_are_produced(stage):
    stage.replica.outboxes.start()
    items = [
        {"item_id": 5, "fields": {"tag": [1, "x"]}, "numbers": {"duration_seconds": 3}},
        {"item_id": 6, "event_time": 9},
    ]
    users = [{"user_id": 8, "fields": {"profile": ["age=1"]}, "numbers": {}}]
    assert stage.post("/v1/items", {"items": items}).status_code == 202
    assert stage.post("/v1/users", {"users": users}).json() == {"accepted": 1}
    wait_until(lambda: len(stage.profiles.records) == 3, 10)
    assert stage.profiles.records == [
        Profile("item", 5, stage.clock(), {"tag": (1, "x")}, {"duration_seconds": 3.0}),
        Profile("item", 6, 9, {}, {}),
        Profile("user", 8, stage.clock(), {"profile": ("age=1",)}, {}),
    ]
    stage.replica.outboxes.stop(10)


def test_what_does_not_fit_any_more_is_refused_for_now():
    stage = Stage(capacity=1)
    assert stage.post("/v1/actions", {"user_id": 1, "actions": [ACTION]}).status_code == 202
    assert stage.post("/v1/actions", {"user_id": 1, "actions": [ACTION]}).status_code == 503
    two = {"items": [{"item_id": 1}, {"item_id": 2}]}
    assert "Kafka" in stage.post("/v1/items", two).json()["detail"]


BAD = {
    "no user": ("/v1/feed", {}, "user_id"),
    "a user in quotes": ("/v1/feed", {"user_id": "7"}, "user_id"),
    "a user that is true": ("/v1/feed", {"user_id": True}, "user_id"),
    "a user below 0": ("/v1/feed", {"user_id": -1}, "user_id"),
    "a user of 64 bits": ("/v1/feed", {"user_id": BIG}, "user_id"),
    "a fractional user": ("/v1/feed", {"user_id": 1.5}, "user_id"),
    "an unknown key": ("/v1/feed", {"user_id": 1, "sice": 3}, "sice"),
    "no size": ("/v1/feed", {"user_id": 1, "size": 0}, "size"),
    "a size above the configured": ("/v1/feed", {"user_id": 1, "size": 11}, "size"),
    "a surface below 0": ("/v1/feed", {"user_id": 1, "surface": -1}, "surface"),
    "not an object": ("/v1/feed", [1], "body"),
    "no actions": ("/v1/actions", {"user_id": 1, "actions": []}, "actions"),
    "too many actions": ("/v1/actions", {"user_id": 1, "actions": [ACTION] * 1001}, "actions"),
    "no kind": ("/v1/actions", {"user_id": 1, "actions": [{**ACTION, "kind": ""}]}, "actions.0.kind"),
    "a long kind": (
        "/v1/actions",
        {"user_id": 1, "actions": [{**ACTION, "kind": "k" * 201}]},
        "actions.0.kind",
    ),
    "no number": (
        "/v1/actions",
        {"user_id": 1, "actions": [ACTION, {**ACTION, "value": float("nan")}]},
        "actions.1.value",
    ),
    "a lone surrogate": (
        "/v1/actions",
        {"user_id": 1, "actions": [{**ACTION, "kind": "\ud800"}]},
        "actions.0.kind",
    ),
    "a far time": (
        "/v1/actions",
        {"user_id": 1, "actions": [{**ACTION, "event_time": 1 << 53}]},
        "actions.0.event_time",
    ),
    "a number too large": (
        "/v1/items",
        {"items": [{"item_id": 1, "numbers": {"d": 1e39}}]},
        "items.0.numbers.d",
    ),
    "a value too large": (
        "/v1/items",
        {"items": [{"item_id": 1, "fields": {"tag": [1 << 64]}}]},
        "items.0.fields.tag.0",
    ),
    "a nested value": (
        "/v1/items",
        {"items": [{"item_id": 1, "fields": {"tag": [[1]]}}]},
        "items.0.fields.tag.0",
    ),
    "too many values": (
        "/v1/items",
        {"items": [{"item_id": 1, "fields": {"tag": [1] * 1001}}]},
        "items.0.fields.tag",
    ),
    "an empty name": ("/v1/items", {"items": [{"item_id": 1, "fields": {"": [1]}}]}, "items.0.fields"),
    "a surrogate as a name": (
        "/v1/items",
        {"items": [{"item_id": 1, "fields": {"\ud800": [1]}}]},
        "items.0.fields",
    ),
    "users as items": ("/v1/users", {"users": [{"item_id": 1}]}, "users.0.user_id"),
}


@pytest.mark.parametrize(("path", "body", "field"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_refused_and_the_field_named(stage, path, body, field):
    answer = stage.post(path, body)
    assert answer.status_code == 422
    fields = [problem["field"] for problem in answer.json()["detail"]]
    assert any(named.startswith(field) for named in fields), fields
    assert all(problem["message"] for problem in answer.json()["detail"])
    outboxes = stage.replica.outboxes
    assert outboxes.actions.offered == outboxes.profiles.offered == stage.replica.feeds.made == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"nul", b"[" * 100_000, b'{"user_id": ' + b"9" * 5000 + b"}"]
)
def test_what_is_not_json_is_refused(stage, content):
    assert stage.post("/v1/feed", content=content).status_code in {400, 422}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-BIG, 2 * BIG) | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    ["user_id", "item_id", "surface", "size", "actions", "items", "users", "fields", "numbers", "kind"]
)
bodies = st.dictionaries(
    names,
    json_values
    | st.lists(
        st.dictionaries(
            names | st.sampled_from(["request_id", "event_time", "value"]), json_values, max_size=5
        ),
        max_size=2,
    ),
    max_size=4,
)
FUZZED = Stage()
FUZZED.learn(*[item(i) for i in ITEMS])


@settings(max_examples=150)
@given(st.sampled_from(["/v1/feed", "/v1/actions", "/v1/items", "/v1/users"]), bodies | json_values)
def test_nothing_sent_makes_it_fail(path, body):
    content = json.dumps(body).encode()
    assert FUZZED.post(path, content=content).status_code in {200, 202, 400, 422, 503}


def test_readiness_says_what_is_missing():
    stage = Stage()
    stage.follower.caught_up = False
    assert stage.get("/healthz").status_code == 200
    assert stage.get("/readyz").status_code == 503
    assert "snapshot" in stage.get("/readyz").text
    stage.shards.away.add(1)
    assert stage.post("/v1/sync").status_code == 503
    assert "shard 1 is away" in stage.get("/readyz").text
    stage.shards.away.clear()
    assert stage.post("/v1/sync").status_code == 200
    assert "catalogue" in stage.get("/readyz").text
    stage.follower.caught_up = True
    assert stage.get("/readyz").status_code == 200


def test_sync_runs_a_round_now(stage):
    stage.shards.push(2, video_ids(ITEMS), 1.0)
    stage.shards.publish(5)
    answer = stage.post("/v1/sync").json()
    assert answer["dense"] == 5
    assert answer["shards"] == [[s.epoch, 2] for s in stage.shards.shards]


def test_digests_are_the_shards_own(stage):
    digests = stage.get("/report/digests").json()
    assert digests == [
        {
            "shard": s.index,
            "table": table,
            "epoch": s.epoch,
            "clock": 1,
            "digest": f"{s.digest(table)[1]:016x}",
        }
        for s in stage.shards.shards
        for table in (TABLE, "retrieval")
    ]


def test_the_report(stage):
    stage.post("/v1/feed", {"user_id": 7})
    stage.shards.push(2, video_ids(ITEMS), 1.0, [stage.clock() + 100])
    stage.clock.move(0.6)
    stage.post("/v1/sync")
    report = stage.get("/report/replica").json()
    assert 0 <= report.pop("seconds_since_sync") < 60
    assert report == {
        "replica": 0,
        "ready": True,
        "unready_because": None,
        "clocks": [[s.epoch, 2] for s in stage.shards.shards],
        "dense_version": 4,
        "dense_step": 9,
        "rounds": 2,
        "failed_rounds": 0,
        "paused": False,
        "paused_at": None,
        "held": None,
        "sparse_seconds": 1.0,
        "dense_seconds": 2.0,
        "rows": {TABLE: len(ITEMS), "retrieval": 0},
        "shown": {"popular": 0, "recent": CONFIG.serving.feed_size, "retrieved": 0},
        "retrieval": {"items": 0, "epoch": 0, "version": 0, "seconds": {"p50": None, "p99": None}},
        "feeds": 1,
        "feature_logs": 1,
        "freshness": {"count": 1, "p50": 0.5, "p99": 0.5},
        "freshness_stages": {"count": 0},
        "traces": [],
        "items": len(ITEMS),
        "users": 0,
        "candidates": len(ITEMS),
        "audit": {"matched": 0, "mismatched": 0},
        "saved_at": 0,
        "outboxes": {
            "feature_logs": {"waiting": 1, "spooled_bytes": 0},
            "actions": {"waiting": 0, "spooled_bytes": 0},
            "profiles": {"waiting": 0, "spooled_bytes": 0},
        },
    }


def test_freshness_since(stage):
    ready = stage.clock()
    stage.shards.push(2, [1], 1.0, [ready + 100, ready + 300])
    stage.clock.move(0.6)
    stage.post("/v1/sync")
    assert stage.get("/report/freshness").json() == {"since": 0, "count": 2, "p50": 0.4, "p99": 0.498}
    late = stage.get(f"/report/freshness?since={ready + 200}").json()
    assert (late["count"], late["p50"]) == (1, 0.3)
    nothing = stage.get(f"/report/freshness?since={ready + 900}").json()
    assert (nothing["count"], nothing["p50"]) == (0, None)
    assert stage.get("/report/freshness?since=-1").json()["detail"][0]["field"] == "query.since"


def test_metrics_and_openapi(stage):
    stage.post("/v1/feed", {"user_id": 7})
    page = stage.get("/metrics").text
    for name in ("headwater_feeds_total", "headwater_freshness_seconds_bucket", "headwater_replica_clock"):
        assert name in page
    paths = stage.get("/openapi.json").json()["paths"]
    assert {"/v1/feed", "/v1/actions", "/v1/items", "/v1/users", "/readyz"} <= paths.keys()


def test_probes_are_answered_while_every_thread_waits_for_a_round(stage):
    entered, release = threading.Semaphore(0), threading.Event()

    def slow():
        entered.release()
        release.wait(10)

    stage.replica.sync.run_round = slow

    async def ask():
        threads = int(to_thread.current_default_thread_limiter().total_tokens)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(stage.app), base_url="http://replica", timeout=10
        ) as client:
            syncs = [asyncio.create_task(client.post("/v1/sync")) for _ in range(threads)]
            with ThreadPoolExecutor(1) as pool:
                for _ in syncs:
                    await asyncio.get_running_loop().run_in_executor(pool, entered.acquire)
            try:
                async with asyncio.timeout(5):
                    return [(await client.get(path)).status_code for path in ("/healthz", "/readyz")]
            finally:
                release.set()
                await asyncio.gather(*syncs)

    assert asyncio.run(ask()) == [200, 200]


def test_the_rounds_can_be_paused_and_made_rarer(stage):
    settings = stage.post("/v1/sync/settings", {"paused": True, "sparse_seconds": 7})
    assert settings.json() == {"paused": True, "sparse_seconds": 7.0, "dense_seconds": 2.0}
    report = stage.get("/report/replica").json()
    assert (report["paused"], report["paused_at"], report["sparse_seconds"]) == (True, stage.clock(), 7.0)
    assert not stage.post("/v1/sync/settings", {"paused": False}).json()["paused"]
    assert stage.post("/v1/sync/settings", {"sparse_seconds": 0.5}).status_code == 422


def guarded(**changes) -> Stage:
    serving = msgspec.structs.replace(CONFIG.serving, **changes)
    stage = Stage(msgspec.structs.replace(CONFIG, serving=serving))
    stage.learn(*[item(i) for i in ITEMS])
    return stage


def test_logs_name_the_call_and_the_request(stage, caplog):
    told: list[dict[str, str]] = []

    class Listener(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            told.append(dict(logs._ABOUT.get()))

    log, listener = logging.getLogger("serving.ranker"), Listener()
    log.addHandler(listener)
    retrieve = stage.replica.feeds._retrieve

    def noisy(user, moment):
        log.warning("looked at")
        return retrieve(user, moment)

    stage.replica.feeds._retrieve = noisy
    answer = stage.request("POST", "/v1/feed", {"user_id": 7}, headers={"x-request-id": "call-5"})
    log.removeHandler(listener)
    assert told == [{"call": "call-5", "request_id": answer.json()["request_id"]}]


def test_with_a_key_only_who_has_it_is_let_in():
    stage = guarded(api_key="open sesame")
    assert stage.post("/v1/feed", {"user_id": 1}).status_code == 401
    for key, status in (("open sesame", 200), ("open sesamf", 401), ("", 401)):
        answer = stage.request("POST", "/v1/feed", {"user_id": 1}, headers={"x-api-key": key})
        assert answer.status_code == status
    assert stage.get("/healthz").status_code == 200, "operators and probes need none"


@pytest.mark.parametrize("said", [True, False])
def test_a_body_that_is_too_large_is_refused_whether_or_not_its_size_is_said(stage, said):
    content = b" " * (MAX_BODY + 1)

    async def pieces():
        yield content

    answer = stage.post("/v1/feed", content=content if said else pieces())
    assert answer.status_code == 413
    assert str(MAX_BODY) in answer.json()["detail"]


def test_who_does_not_send_the_body_does_not_keep_others_out(monkeypatch):
    monkeypatch.setattr("serving.gate.BODY_SECONDS", 0.01)
    stage = guarded(max_requests=1)

    async def pieces():
        yield b"{"
        await asyncio.Event().wait()

    answer = stage.post("/v1/feed", content=pieces())
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"
    assert stage.post("/v1/feed", {"user_id": 3}).status_code == 200


def test_too_many_requests_at_once_are_told_to_come_again():
    stage = guarded(max_requests=2)
    entered, release = threading.Semaphore(0), threading.Event()
    run_round = stage.replica.sync.run_round

    def slow():
        entered.release()
        release.wait(10)
        run_round()

    stage.replica.sync.run_round = slow
    with ThreadPoolExecutor(2) as pool:

        async def three():
            transport = httpx.ASGITransport(stage.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://replica", timeout=10
            ) as client:
                two = [asyncio.create_task(client.post("/v1/sync")) for _ in range(2)]
                for _ in two:
                    await asyncio.get_running_loop().run_in_executor(pool, entered.acquire)
                third = await client.post("/v1/feed", json={"user_id": 3})
                release.set()
                return [
                    third,
                    *await asyncio.gather(*two),
                    await client.post("/v1/feed", json={"user_id": 3}),
                ]

        answers = asyncio.run(three())
    assert [a.status_code for a in answers] == [429, 200, 200, 200]
    assert answers[0].headers["retry-after"] == "1"

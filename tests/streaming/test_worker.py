"""The joiner on Apache Kafka: every label once, through kills and rebalances."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from schema.records import ActionBatch
from tests.polling import wait_until
from tests.streaming.make import action, feature_log
from tests.streaming.worker import ROOT, Feed, View, Worker, deployment, unread, workers

pytestmark = pytest.mark.timeout(120)


def traffic(count: int, seed: int = 0, *, start: int = 0, at: int | None = None):
    """`count` requests of many users over event time, their actions, and the labels to come of them."""
    rng = random.Random(seed)
    now = int(time.time() * 1000) if at is None else at
    logs, batches, labels = [], [], []
    for i in range(start, start + count):
        user, name, moment = rng.randrange(50), f"r{i}", now + i * 2
        items = rng.sample(range(1000), 4)
        logs.append(feature_log(name, moment, items, user_id=user))
        positive = set()
        for item in rng.sample(items, rng.randrange(3)):
            kind = rng.choice(("click", "like"))
            batches.append(ActionBatch(user, (action(name, moment + rng.randrange(900), item, kind),)))
            positive.add((item, kind))
        labels += [(name, item, t, float((item, t) in positive)) for item in items for t in ("click", "like")]
    return logs, batches, sorted(labels)


@pytest.fixture
def feed(topics):
    made = Feed(topics)
    yield made
    made.close()


@pytest.fixture
def view(topics):
    made = View(topics)
    yield made
    made.close()


def expect(view: View, labels, seconds: float = 30):
    """The labels become these; a positive that came late may be a negative at first."""
    deadline = time.monotonic() + seconds
    while view.poll().labels != labels and time.monotonic() < deadline:
        pass  # `poll` waits
    assert view.labels == labels


def test_labels_of_live_traffic_come_by_the_clock_alone(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(300)
    with workers(config, tmp_path) as (worker,):
        feed.logs(logs)
        feed.actions(batches)
        expect(view, labels)
        assert view.filtered == 0
        assert view.letters == []
        wait_until(lambda: unread(topics, config.streaming.app_id) == 0, 20)
        report = worker.report()
        assert report["partitions"] == [0, 1, 2, 3]
        assert (report["feature_logs"], report["actions"], report["rows"]) == (300, len(batches), 1200)
        assert (report["open_requests"], report["pending_actions"], report["dead_letters"]) == (0, 0, {})
        assert 'joiner_records_total{kind="feature_logs"} 300.0' in worker.page("/metrics")
        assert worker.stop() == 0, worker.output


def test_a_heartbeat_closes_the_windows_of_a_replay(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path, window_seconds=1800.0, disorder_seconds=60.0, idle_seconds=600.0)
    logs, batches, labels = traffic(100, at=1_650_000_000_000)
    with workers(config, tmp_path) as (worker,):
        feed.actions(batches)
        feed.logs(logs)
        wait_until(lambda: worker.report()["feature_logs"] == 100, 20)
        assert view.poll().labels == []
        feed.heartbeat(1_650_000_000_000 + 2_000_000)
        expect(view, labels)
        assert view.letters == []
        assert worker.stop() == 0


def test_a_killed_worker_loses_and_doubles_nothing(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path, window_seconds=1.0)
    labels = []
    with workers(config, tmp_path) as running:
        for part in range(6):
            logs, batches, due = traffic(100, part, start=part * 100)
            labels += due
            feed.actions(batches)
            feed.logs(logs)
            if part % 2:
                wait_until(lambda: view.poll().labels, 20)
                running[0].kill()
                running[0] = Worker(config, tmp_path)
        expect(view, sorted(labels))
        assert view.letters == []
        wait_until(lambda: unread(topics, config.streaming.app_id) == 0, 20)


def test_one_three_and_two_workers_share_partitions_and_each_has_both_topics(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    labels = []

    def more():
        logs, batches, due = traffic(150, len(labels), start=len(labels))
        labels.extend(due)
        feed.actions(batches[::2])
        feed.logs(logs)
        feed.actions(batches[1::2])

    with workers(config, tmp_path) as running:

        def shares():
            return sorted(tuple(w.report()["partitions"]) for w in running if w.ready())

        more()
        running += [Worker(config, tmp_path, i) for i in (1, 2)]
        more()
        wait_until(lambda: shares() == [(0, 1), (2,), (3,)], 40)
        more()
        assert running.pop().stop() == 0
        more()
        wait_until(lambda: shares() == [(0, 1), (2, 3)], 40)
        more()
        expect(view, sorted(labels), 60)
        assert view.letters == []
        wait_until(lambda: unread(topics, config.streaming.app_id) == 0, 20)


def test_poison_goes_to_the_dead_letters_and_slows_nothing_down(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(100)
    with workers(config, tmp_path) as (worker,):
        for number in range(40):
            topic = (feed.topics.feature_logs, feed.topics.user_actions)[number % 2]
            feed.raw(topic, (None, b"", b"{}", b"\x01garbage", b"\xff" * 500)[number % 5], number % 4)
        feed.logs(logs)
        feed.actions(batches)
        expect(view, labels)
        wait_until(lambda: len(view.poll().letters) >= 40, 10)
        assert {x.reason for x in view.letters} == {"empty", "version", "schema", "checksum"}
        wait_until(lambda: unread(topics, config.streaming.app_id) == 0, 20)
        assert sum(worker.report()["dead_letters"].values()) == 40


def test_a_stopped_worker_goes_on_where_it_was(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path, window_seconds=3.0)
    logs, batches, labels = traffic(200)
    with workers(config, tmp_path) as running:
        feed.logs(logs)
        wait_until(lambda: running[0].report()["open_requests"] == 200, 20)
        assert running[0].stop() == 0, running[0].output
        feed.actions(batches)
        running[0] = Worker(config, tmp_path).wait_ready()
        expect(view, labels)
        assert view.filtered == 0


def test_a_wrong_configuration_is_refused(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("tasks: []\n")
    done = subprocess.run(
        [sys.executable, "-m", "streaming", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr

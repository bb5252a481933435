"""The joiner on Apache Kafka through faults: a broker that goes, a paused worker, damaged disks, garbage, skew."""

from __future__ import annotations

import random
import signal
import time

import msgspec
import psutil
import pytest

from runtime.broker import LocalBroker
from runtime.kafka import ensure_topics
from runtime.ports import free_port
from schema.config import KafkaConfig
from schema.records import ActionBatch
from tests.polling import wait_until
from tests.streaming.make import action, feature_log
from tests.streaming.test_worker import expect, traffic
from tests.streaming.worker import Feed, View, Worker, deployment, workers

pytestmark = pytest.mark.timeout(240)


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


def test_late_positives_retract_their_negatives_and_survive_a_kill(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(60)
    with workers(config, tmp_path) as running:
        feed.logs(logs)
        wait_until(lambda: len(view.poll().labels) == len(labels), 30)
        assert not any(label for *_, label in view.labels)
        feed.actions(batches[::2])
        wait_until(lambda: sum(b.late_offset >= 0 for b in view.poll().blocks) >= 1, 20)
        running[0].kill()
        feed.actions(batches[1::2])
        running[0] = Worker(config, tmp_path).wait_ready()
        wait_until(lambda: view.poll().labels == labels, 30)
    assert view.letters == []


def test_another_worker_rebuilds_the_late_store_from_the_log(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(60)
    with workers(config, tmp_path) as running:
        feed.logs(logs)
        wait_until(lambda: len(view.poll().labels) == len(labels), 30)
        wait_until(lambda: running[0].report()["unacked"] == 0, 10)
        assert running.pop().stop() == 0
        feed.actions(batches)
        (tmp_path / "other").mkdir()
        elsewhere = msgspec.structs.replace(config, run_dir=str(tmp_path / "other"))
        running.append(Worker(elsewhere, tmp_path / "other").wait_ready())
        wait_until(lambda: view.poll().labels == labels, 30)
    assert view.letters == []


def past_window(worker, expected):
    """The actions were given up waiting for, and what they lay in is acknowledged."""
    wait_until(lambda: worker.report()["parked"] == expected, 30)
    wait_until(lambda: worker.report()["unacked"] == 0, 20)


@pytest.mark.parametrize("moved", [False, True], ids=["killed", "moved"])
def test_feature_logs_may_come_after_the_window_of_their_actions(topics, feed, view, tmp_path, moved):
    """As they do when the broker was away, and they waited on a replica's disk. Another worker finds them, too."""
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(60)
    with workers(config, tmp_path) as running:
        feed.actions(batches)
        past_window(running[0], len(batches))
        running.pop().kill()
        folder = tmp_path / "other" if moved else tmp_path
        folder.mkdir(exist_ok=True)
        running.append(Worker(msgspec.structs.replace(config, run_dir=str(folder)), folder).wait_ready())
        feed.logs(logs)
        expect(view, labels, 40)
        wait_until(lambda: running[0].report()["unacked"] == 0, 20)
        assert running[0].report()["pending_actions"] == 0
    assert view.poll().letters == []


def test_an_action_without_a_feature_log_is_given_up_after_the_horizon_alone(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path, late_horizon_seconds=4.0)
    logs, batches, labels = traffic(20)
    with workers(config, tmp_path) as (worker,):
        feed.logs(logs[:10])
        feed.actions(batches)
        orphans = sum(b.actions[0].request_id not in {log.request_id for log in logs[:10]} for b in batches)
        past_window(worker, orphans)
        assert view.poll().letters == []
        feed.heartbeat(logs[-1].event_time + 10_000)
        wait_until(lambda: len(view.poll().letters) == orphans, 20)
        assert {letter.reason for letter in view.letters} == {"unmatched_action"}
        expect(view, [x for x in labels if x[0] in {log.request_id for log in logs[:10]}])


@pytest.mark.slow
def test_a_damaged_late_store_is_rebuilt(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(60)
    with workers(config, tmp_path) as running:
        feed.logs(logs)
        wait_until(lambda: len(view.poll().labels) == len(labels), 30)
        wait_until(lambda: running[0].report()["unacked"] == 0, 10)
        assert running[0].stop() == 0
        for path in (tmp_path / "joiner-0" / "late").rglob("*"):
            if path.is_file() and path.name != "LOCK":
                path.write_bytes(b"damaged")
        feed.actions(batches)
        running[0] = Worker(config, tmp_path).wait_ready()
        wait_until(lambda: view.poll().labels == labels, 30)
        assert "made anew" in running[0].output
    assert view.letters == []


def test_a_full_disk_costs_no_label_on_time(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(150)
    with workers(config, tmp_path) as (worker,):
        limit = psutil.Process(worker.process.pid)
        limit.rlimit(
            psutil.RLIMIT_FSIZE, (4096, psutil.RLIM_INFINITY)
        )  # as a full disk: writes end in errors
        feed.logs(logs)
        feed.actions(batches)
        wait_until(lambda: "starts again" in worker.output or "no late store" in worker.output, 30)
        limit.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
        expect(view, labels, 60)
        assert worker.process.poll() is None
    assert view.letters == []


@pytest.mark.slow
def test_a_paused_worker_neither_loses_nor_doubles_when_it_wakes(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    with workers(config, tmp_path, 2) as running:
        wait_until(lambda: sorted(map(len, (w.report()["partitions"] for w in running))) == [2, 2], 20)
        logs, batches, labels = traffic(100)
        feed.actions(batches)
        feed.logs(logs)
        running[0].process.send_signal(signal.SIGSTOP)
        # past the session timeout the other one has all
        wait_until(lambda: len(running[1].report()["partitions"]) == 4, 30)
        running[0].process.send_signal(signal.SIGCONT)
        more, batches, due = traffic(100, 1, start=100)
        feed.logs(more)
        feed.actions(batches)
        expect(view, sorted(labels + due), 60)
    assert view.letters == []


@pytest.mark.slow
def test_a_worker_paused_alone_past_its_session_goes_on_where_it_stood(topics, feed, view, tmp_path):
    """Nobody takes its partitions meanwhile; the group has forgotten it when it wakes."""
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(100)
    with workers(config, tmp_path) as (worker,):
        feed.logs(logs)
        feed.actions(batches[::2])
        wait_until(lambda: worker.report()["actions"] > 0, 20)
        worker.process.send_signal(signal.SIGSTOP)
        feed.actions(batches[1::2])
        seconds = 2 * config.kafka.session_timeout_seconds
        over = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > over, seconds + 5)
        worker.process.send_signal(signal.SIGCONT)
        more, batches, due = traffic(100, 1, start=100)
        feed.logs(more)
        feed.actions(batches)
        expect(view, sorted(labels + due), 60)
        assert worker.process.poll() is None, worker.output
    assert view.letters == []


def outage(tmp_path, seconds):
    port = free_port()
    broker = LocalBroker(KafkaConfig(local_port=port, heap_mb=256), tmp_path / "kafka")
    broker.start(timeout=90)
    kafka = KafkaConfig(bootstrap=f"127.0.0.1:{port}")
    ensure_topics(kafka)
    config = deployment(kafka, tmp_path)
    logs, batches, labels = traffic(100)
    feed = Feed(kafka)
    with workers(config, tmp_path) as (worker,):
        feed.logs(logs)
        feed.actions(batches)
        wait_until(lambda: worker.report()["feature_logs"] > 0, 20)
        broker.stop(timeout=20)
        over = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > over, seconds + 5)
        broker.start(timeout=90)
        more, batches, due = traffic(100, 1, start=100)
        feed.logs(more)
        feed.actions(batches)
        view = View(kafka)
        expect(view, sorted(labels + due), 90)
        assert worker.process.poll() is None, worker.output
        assert view.letters == []
        view.close()
    feed.close()
    broker.stop(timeout=20)


@pytest.mark.slow
def test_a_broker_that_was_away_for_a_moment_comes_back_with_its_data(tmp_path):
    outage(tmp_path, 4)


@pytest.mark.slow
def test_a_broker_that_was_away_for_half_a_minute_comes_back_with_its_data(tmp_path):
    outage(tmp_path, 30)


def test_a_tenth_of_garbage_harms_nothing_else(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path)
    logs, batches, labels = traffic(300)
    rng = random.Random(1)
    with workers(config, tmp_path) as (worker,):
        for part in range(30):
            feed.logs(logs[part * 10 : part * 10 + 10], 1)
            feed.raw(feed.topics.feature_logs, rng.randbytes(300), part % 4)
            feed.raw(feed.topics.user_actions, rng.randbytes(300), part % 4)
        feed.actions(batches, 1)
        expect(view, labels, 40)
        wait_until(lambda: sum(worker.report()["dead_letters"].values()) == 60, 10)


def test_a_producer_whose_clock_is_ahead_closes_nobody_elses_window(topics, feed, view, tmp_path):
    config = deployment(topics, tmp_path, window_seconds=8.0)
    with workers(config, tmp_path) as (worker,):
        now = int(time.time() * 1000)
        ahead = now + 1_800_000
        feed.logs([feature_log("good", now, user_id=7)])
        feed.logs([feature_log("ahead", ahead, user_id=7)])
        feed.actions([ActionBatch(7, (action("ahead", ahead + 1),))])
        wait_until(lambda: worker.report()["open_requests"] == 2, 20)
        feed.actions([ActionBatch(7, (action("good", now + 10),))])
        wait_until(lambda: ("good", 10, "click", 1.0) in view.poll().labels, 30)
        assert {block.request_id for block in view.blocks} == {"good"}
        assert worker.report()["open_requests"] == 1

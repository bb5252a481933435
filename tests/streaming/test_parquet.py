"""The dump and the backfill: every block once, whatever ends the process, and the same bytes every time."""

from __future__ import annotations

import random
import struct
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from runtime.ports import free_port
from schema.config import DumpConfig
from schema.config_file import dump_config
from schema.errors import ConfigError
from streaming import backfill, parquet
from streaming.dump import Dump
from streaming.parquet import Span
from tests.polling import wait_until
from tests.streaming.netview import NetView
from tests.streaming.test_partition import Bench, odds_are_those_logged, traffic
from tests.streaming.test_worker import traffic as worker_traffic
from tests.streaming.worker import ROOT, Feed, deployment


@pytest.fixture(scope="module")
def blocks():
    made = traffic(random.Random(1), 60)
    bench = Bench(made.logs, made.actions)
    bench.finish()
    assert len(bench.samples) >= 60
    return bench.samples


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_what_is_written_is_read_back(tmp_path, blocks):
    parquet.write(tmp_path, Span(3, 0, 7), blocks)
    assert sorted(map(repr, parquet.read(tmp_path))) == sorted(map(repr, blocks))
    assert parquet.positions(tmp_path) == {3: 7}
    table = pq.read_table(next(tmp_path.glob("date=1970-01-01/hour=00/*.parquet")))
    assert table.num_rows == sum(map(len, blocks))
    assert table["labels"][0].as_py() == blocks[0].label_matrix()[0].tolist()
    told = [
        odds
        for block in blocks
        for odds in np.frombuffer(block.propensities, "<f4").tolist() or [None] * len(block)
    ]
    assert table["propensity"].to_pylist() == told
    assert 0 < table["propensity"].null_count < len(told)


def test_hours_of_event_time_are_apart(tmp_path, blocks):
    later = msgspec.structs.replace(blocks[0], event_time=blocks[0].event_time + 3_600_000)
    parquet.write(tmp_path, Span(0, 0, 2), [blocks[0], later])
    assert sorted(p.parent.name for p in tmp_path.glob("date=*/*/*.parquet")) == ["hour=00", "hour=01"]


def test_a_span_that_was_not_finished_does_not_count(tmp_path, blocks):
    parquet.write(tmp_path, Span(0, 0, 5), blocks)
    for word in (tmp_path / "_spans").iterdir():
        word.unlink()
    assert list(parquet.read(tmp_path)) == []
    assert parquet.positions(tmp_path) == {}
    parquet.write(tmp_path, Span(0, 0, 6), blocks)
    assert len(list(parquet.read(tmp_path))) == len(blocks)


def test_the_dump_goes_on_where_its_files_end(topics, tmp_path, blocks):
    config = deployment(topics, tmp_path)
    dump = DumpConfig(file_rows=10, ops_port=free_port())
    feed = Feed(topics)
    sent = [msgspec.structs.replace(b, user_id=i) for i, b in enumerate(blocks)]
    feed.samples(sent[:40])
    first = Dump(config, dump)
    for _ in range(4):
        first.step()  # and then it is killed: what is open is lost
    feed.samples(sent[40:])
    feed.close()
    second = Dump(config, dump)
    for _ in range(6):
        second.step()
    second.finish()
    first._reader.close()
    assert sorted(map(repr, parquet.read(second.folder))) == sorted(map(repr, sent))


def test_a_killed_dump_leaves_every_block_in_the_files_once(topics, tmp_path, blocks):
    dump = DumpConfig(file_rows=30, file_seconds=3600.0, ops_port=free_port())
    config = deployment(topics, tmp_path, dump=dump)
    dump_config(config, tmp_path / "config.yaml")
    folder = tmp_path / dump.path
    feed = Feed(topics)
    sent = [
        msgspec.structs.replace(b, user_id=i, source=msgspec.structs.replace(b.source, offset=i))
        for i, b in enumerate(blocks * 6)
    ]
    command = [sys.executable, "-m", "streaming.dump", str(tmp_path / "config.yaml")]
    for part in range(3):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        try:
            before = len(parquet.spans(folder))
            feed.samples(sent[part::3])
            wait_until(lambda before=before: len(parquet.spans(folder)) > before, 60)
            if part < 2:
                process.kill()  # somewhere between two files
            else:
                wait_until(lambda: rows_on_disk(folder) > sum(map(len, sent)) - 4 * 30, 60)
                process.terminate()
                assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()
    feed.close()
    assert sorted(map(repr, parquet.read(folder))) == sorted(map(repr, sent))


def rows_on_disk(folder):
    return sum(len(block) for block in parquet.read(folder))


def history(folder, config, made):
    folder.mkdir()
    topics = config.kafka.topics
    for name, values in ((topics.feature_logs.name, made.logs), (topics.user_actions.name, made.actions)):
        (folder / f"{name}-0").write_bytes(b"".join(struct.pack("<I", len(v)) + v for v in values))


def test_a_backfill_gives_the_labels_of_the_oracle_and_the_same_bytes(tmp_path, kafka):
    config = deployment(kafka, tmp_path, late_horizon_seconds=100.0, disorder_seconds=0.05)
    made = traffic(random.Random(2), 80)
    history(tmp_path / "history", config, made)
    names = (config.kafka.topics.feature_logs.name, config.kafka.topics.user_actions.name)
    for run in ("a", "b"):
        sides = tuple(backfill.from_files(tmp_path / "history", name, 0) for name in names)
        backfill._write(tmp_path / run, 0, backfill.join(config, 0, sides, tmp_path / f"late-{run}"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != {}
    bench = Bench()
    bench.samples = sorted(parquet.read(tmp_path / "a"), key=lambda b: (b.late_offset, b.source.offset))
    bench.samples = [msgspec.structs.replace(b, resolved_below=0) for b in bench.samples]
    assert bench.view() == made.labels
    assert odds_are_those_logged(bench.samples)


def test_a_backfill_of_topics_is_that_of_their_files_to_the_byte(topics, tmp_path):
    config = deployment(topics, tmp_path)
    dump_config(config, tmp_path / "config.yaml")
    feed = Feed(topics)
    logs, batches, labels = worker_traffic(120)
    feed.actions(batches[::3])
    feed.logs(logs)
    feed.actions(batches[1::3] + batches[2::3])
    feed.raw(topics.topics.user_actions, b"garbage", 0)
    feed.flush()
    feed.close()
    (tmp_path / "history").mkdir()
    for topic in (topics.topics.feature_logs, topics.topics.user_actions):
        for number in range(topic.partitions):
            values = list(backfill.from_topic(config, topic.name, number))
            (tmp_path / "history" / f"{topic.name}-{number}").write_bytes(
                b"".join(struct.pack("<I", len(v)) + v for v in values)
            )
    for name, more in (("a", []), ("b", []), ("files", ["--history", str(tmp_path / "history")])):
        arguments = [str(tmp_path / "config.yaml"), "--out", str(tmp_path / name), *more]
        subprocess.run(
            [sys.executable, "-m", "streaming.backfill", *arguments], cwd=ROOT, check=True, timeout=90
        )
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "files") != {}
    view = NetView()
    for block in parquet.read(tmp_path / "a"):
        view.take(msgspec.structs.replace(block, resolved_below=0))
    assert view.labels == labels


def test_a_history_that_was_cut_is_refused(tmp_path):
    (tmp_path / "logs-0").write_bytes(struct.pack("<I", 9) + b"short")
    with pytest.raises(ConfigError, match="ends within a message"):
        list(backfill.from_files(tmp_path, "logs", 0))
    assert list(backfill.from_files(tmp_path, "logs", 1)) == []

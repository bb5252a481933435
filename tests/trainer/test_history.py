"""A dump instead of the topic: the same entries, the same training, and the same place to go on from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schema.codec import TRAINING_SAMPLES
from schema.dump import Span
from schema.errors import InvalidMessage
from schema.records import SampleBlock
from streaming import parquet
from tests.trainer.fakes import Clock, FakeLog
from tests.trainer.make import TASKS, JoinerModel, block, config, records
from tests.trainer.test_loop import World, dense, envelopes, stream, world
from trainer.entries import Entry, Position
from trainer.errors import RecoveryError
from trainer.feed import Feed
from trainer.history import HistorySource
from trainer.loop import Trainer
from trainer.messages import MessageReader

HOUR = 3_600_000


def reader() -> MessageReader:
    return MessageReader("training_samples", config().features, TASKS)


def dump(folder: Path, partition: int, messages: Sequence[bytes], bounds: Sequence[int]) -> None:
    """What `streaming.dump` makes of the messages of a partition, in spans between `bounds`."""
    for start, end in zip([0, *bounds], [*bounds, len(messages)], strict=True):
        blocks, places = [], []
        for offset in range(start, end):
            try:
                read = TRAINING_SAMPLES.decode(messages[offset])
            except InvalidMessage:
                continue
            blocks += read
            places += [(offset, within) for within in range(len(read))]
        if end > start:
            parquet.write(folder, Span(partition, start, end), blocks, places)


def source(folder: Path, clock: Clock) -> HistorySource:
    def wait(seconds: float) -> None:
        clock.now += seconds

    return HistorySource(folder, 2, reader(), wait)


def feed(folder: Path) -> Feed:
    clock = Clock()
    return Feed(source(folder, clock), range(2), clock)


def drain(feed: Feed) -> list[Entry]:
    entries = []
    while (entry := feed.next(1.0)) is not None:
        entries.append(entry)
    return entries


@given(
    times=st.lists(
        st.lists(st.lists(st.integers(0, 5 * HOUR), max_size=3), min_size=1, max_size=8),
        min_size=2,
        max_size=2,
    ),
    broken=st.sets(st.integers(0, 7), max_size=3),
    cuts=st.sets(st.integers(1, 7), max_size=2),
    within=st.integers(0, 2),
)
@settings(max_examples=25)
def test_the_entries_are_those_of_the_topic(times, broken, cuts, within):
    messages = {
        p: [
            b"nonsense"
            if offset in broken
            else TRAINING_SAMPLES.encode(
                [block(offset, partition=p, index=i, event_time=t) for i, t in enumerate(m)]
            )
            for offset, m in enumerate(partition)
        ]
        for p, partition in enumerate(times)
    }
    start = {0: Position(0, min(within, len(times[0][0])))}
    with tempfile.TemporaryDirectory() as folder:
        for p, some in messages.items():
            dump(Path(folder), p, some, sorted(c for c in cuts if c < len(some)))
        history = feed(Path(folder))
        history.start(start)
        have = drain(history)
    clock = Clock()
    topic = Feed(FakeLog(messages, reader(), clock), range(2), clock)
    topic.start(start)
    want = drain(topic)
    assert records(have) == records(want)
    places = [
        [(e.partition, e.position, e.following) for e in entries if e.blocks] for entries in (have, want)
    ]
    assert places[0] == places[1]
    for p in range(2):
        ends = [
            max((e.following for e in entries if e.partition == p), default=None) for entries in (have, want)
        ]
        assert ends[0] == ends[1]


def rows(it: World) -> list[tuple[int, bytes]]:
    return sorted((row, values.tobytes()) for shard in it.server.table for row, values in shard.rows.items())


def to_the_pause(trainer: Trainer) -> None:
    while not trainer.idle:
        trainer.advance()


@pytest.mark.parametrize("clip", [None, 6.0])
def test_batch_and_then_online_is_online_all_the_way(tmp_path: Path, clip: float | None):
    whole = stream(3)
    first = {p: messages[: len(messages) // 2] for p, messages in whole.items()}
    for p, messages in first.items():
        dump(tmp_path / "dump", p, messages, [2])
    with (
        world(tmp_path / "a", first, learning=True, propensity_clip=clip) as online,
        world(tmp_path / "b", whole, learning=True, propensity_clip=clip) as both,
    ):
        want = online.start()
        to_the_pause(want)
        online.log.messages = {p: list(messages) for p, messages in whole.items()}
        while want.advance() or not want.idle:
            pass
        both.source = source(tmp_path / "dump", both.clock)
        batch = both.start()
        to_the_pause(batch)
        made = batch.point()
        assert made.offsets == {p: Position(len(messages)) for p, messages in first.items()}
        both.source = None
        have = both.start()
        while have.advance() or not have.idle:
            pass
        assert dense(have) == dense(want)
        assert rows(both) == rows(online)
        assert have.state.positions == want.state.positions
        counted = [t.state.counters for t in (have, want)]
        assert counted[0].rows == counted[1].rows > 0
        assert counted[0].duplicates == counted[1].duplicates


def test_after_a_backfill_the_topic_is_read_from_its_beginning_and_what_both_have_is_dropped(tmp_path: Path):
    """A backfill's samples were never in the topic; the places of their feature logs are the same."""
    blocks: list[SampleBlock] = JoinerModel(5, 12, 0).emit(crashes=0)
    parquet.write(tmp_path / "dump", Span(0, 0, len(blocks)), blocks)
    more = [block(20 + i, resolved_below=20) for i in range(4)]
    messages = {0: envelopes([*(msgspec.structs.replace(b) for b in blocks), *more], 2), 1: []}
    with world(tmp_path / "run", messages, learning=True) as it:
        it.source = source(tmp_path / "dump", it.clock)
        batch = it.start()
        to_the_pause(batch)
        batch.point()
        trained = batch.state.counters.rows
        it.source = None
        online = it.start()
        assert online.state.positions == {}
        while online.advance() or not online.idle:
            pass
        assert online.state.counters.rows == trained + sum(map(len, more))
        assert online.state.counters.duplicates >= trained


def test_a_batch_run_killed_anywhere_equals_one_that_never_was(tmp_path: Path):
    messages = stream(2)
    for p, some in messages.items():
        dump(tmp_path / "dump", p, some, [3])
    found = set()
    for name, kills in (("calm", ()), ("wild", (9, 40, 70))):
        with world(tmp_path / name, messages, kills, learning=True) as it:
            it.source = source(tmp_path / "dump", it.clock)
            trainer = it.to_the_end()
            found.add((dense(trainer), tuple(rows(it))))
    assert len(found) == 1


def test_a_folder_without_samples_or_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(RecoveryError, match="no complete span"):
        HistorySource(tmp_path, 2, reader())
    parquet.write(tmp_path, Span(4, 0, 1), [block(0, partition=4)], [(0, 0)])
    with pytest.raises(RecoveryError, match="partition 4; the topic has 2"):
        HistorySource(tmp_path, 2, reader())
    parquet.write(tmp_path, Span(0, 0, 1), [block(0)])
    with pytest.raises(RecoveryError, match="of a dump and of a backfill"):
        HistorySource(tmp_path, 8, reader())

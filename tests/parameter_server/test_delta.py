"""Deltas end to end in one process: a replica that applies them equals its shards, or says why it does not."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parameter_server import wire
from parameter_server.delta import Changes, Chunk, Delta, seal_of, sealed
from parameter_server.errors import DeltaError, InvalidRequest
from parameter_server.replica import ReplicaTables
from parameter_server.router import shard_of
from parameter_server.shard import Shard
from schema.config import ParameterServerConfig
from tests.parameter_server.cases import config, gradients, random_round, u64

TABLES = ("embedding", "wide")


def over_the_wire(delta: Delta) -> Delta:
    schema = wire.delta_schema(delta.span)
    batches = [(wire.encode_chunk(chunk, schema), None) for chunk in delta.chunks]
    return wire.decode_delta(schema, [*batches, (wire.empty_batch(schema), wire.encode_trailer(delta))])


def fetch(shard: Shard, replica: ReplicaTables) -> Delta:
    return over_the_wire(shard.delta(replica.position(shard.index)))


def assert_equal(shards: list[Shard], replica: ReplicaTables) -> None:
    for shard in shards:
        for table in TABLES:
            assert replica.digest(table, shard.index) == shard.digest(table)[1]
    replica.check_integrity()
    counts = {table: sum(shard.row_counts()[table] for shard in shards) for table in TABLES}
    assert replica.row_counts() == counts


def pushed(seed: int = 0, rounds: int = 15, **changes: object) -> Shard:
    shard = Shard(config(**changes), 0)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    for step in range(rounds):
        random_round(shard, rng, step)
    return shard


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 1000), st.integers(1, 60))
def test_a_replica_that_syncs_now_and_then_equals_its_shard(
    gaps: list[int], seed: int, tombstones_kept: int
) -> None:
    shard = Shard(config(tombstones_kept=tombstones_kept), 0)
    replica = ReplicaTables(shard.config)
    rng, step = np.random.default_rng(seed), 0
    for gap in gaps:
        for _ in range(gap):
            random_round(shard, rng, step)
            step += 1
        replica.apply([fetch(shard, replica)])
        assert replica.position(0) == (shard.epoch, shard.state().clock)
        assert_equal([shard], replica)


def test_a_delta_carries_only_what_changed() -> None:
    shard = pushed()
    replica = ReplicaTables(shard.config)
    first = fetch(shard, replica)
    assert (first.full, first.from_clock) == (True, 0)
    replica.apply([first])
    assert fetch(shard, replica).rows == 0
    shard.push("trainer", 99, {"embedding": (u64([5, 500]), gradients(np.random.default_rng(0), 2))}, 0, [8])
    shard.evict("embedding", u64([500]))
    delta = fetch(shard, replica)
    assert not delta.full
    assert [c.ids.tolist() for c in delta.chunks if len(c.ids)] == [[5]]
    assert [c.removed.tolist() for c in delta.chunks if len(c.removed)] == [[500]]
    assert dict(delta.steps) == {"trainer": 99}
    assert [(t.clock, t.trainer, t.step, t.completed_at.tolist()) for t in delta.traces] == [
        (delta.from_clock + 1, "trainer", 99, [8])
    ]


def test_who_asks_for_row_counts_waits_for_no_round() -> None:
    shard = pushed()
    replica = ReplicaTables(shard.config)
    with ThreadPoolExecutor(1) as pool:
        replica.apply([fetch(shard, replica)], prepare=lambda _: pool.submit(replica.row_counts).result(10))
    assert_equal([shard], replica)


def test_an_id_that_was_removed_and_came_back_survives() -> None:
    shard = pushed()
    replica = ReplicaTables(shard.config)
    replica.apply([fetch(shard, replica)])
    ones = np.ones((1, 4), np.float32)
    shard.push("trainer", 100, {"embedding": (u64([7]), ones)}, 0)
    shard.evict("embedding", u64([7]))
    shard.push("trainer", 101, {"embedding": (u64([7]), ones)}, 0)
    replica.apply([fetch(shard, replica)])
    assert_equal([shard], replica)


def test_chunks_hold_at_most_chunk_rows_and_fit_a_message() -> None:
    shard = pushed()
    assert max(len(chunk.ids) for chunk in shard.delta(None).chunks) == 5
    small = Shard(config(chunk_rows=10**6, max_message_mb=1), 0)
    small.push("a", 0, {"embedding": (u64(range(50_000)), np.ones((50_000, 4), np.float32))}, 0)
    sizes = [c.ids.nbytes + c.vectors.nbytes for c in small.delta(None).chunks]
    assert len(sizes) > 1
    assert max(sizes) <= 1 << 19


@pytest.mark.parametrize("case", ["epoch", "future", "trimmed"])
def test_a_clock_that_cannot_be_followed_gets_a_full_snapshot(case: str) -> None:
    shard = pushed(tombstones_kept=1)
    clock = shard.state().clock
    since = {
        "epoch": (shard.epoch + 1, clock),
        "future": (shard.epoch, clock + 1),
        "trimmed": (shard.epoch, 1),
    }
    delta = shard.delta(since[case])
    assert (delta.full, delta.from_clock, delta.to_clock) == (True, 0, clock)


def test_a_restarted_shard_replaces_all_of_its_rows_and_no_other_shards() -> None:
    settings = config(shards=2)
    shards = [sharded(settings, index) for index in range(2)]
    replica = ReplicaTables(settings)
    replica.apply([fetch(shard, replica) for shard in shards])
    assert_equal(shards, replica)
    shards[0] = sharded(settings, 0, seed=1, ids=40)
    replica.apply([fetch(shards[0], replica)])
    assert_equal(shards, replica)


def sharded(settings: ParameterServerConfig, index: int, seed: int = 0, ids: int = 200) -> Shard:
    """A shard that holds only ids of its own."""
    shard = Shard(settings, index)
    every = u64(range(ids))
    mine = every[shard_of(every, len(settings.shards)) == index]
    shard.push("a", 0, {"embedding": (mine, gradients(np.random.default_rng(seed), len(mine)))}, 0)
    return shard


def damaged(chunk: int, **changes: object) -> Callable[[Delta], Delta]:
    def damage(delta: Delta) -> Delta:
        chunks = list(delta.chunks)
        chunks[chunk] = dataclasses.replace(chunks[chunk], **changes)
        return dataclasses.replace(delta, chunks=tuple(chunks))

    return damage


def with_chunks(choose: Callable[[list], list]) -> Callable[[Delta], Delta]:  # type: ignore[type-arg]
    return lambda delta: dataclasses.replace(delta, chunks=tuple(choose(list(delta.chunks))))


def flipped(delta: Delta) -> Delta:
    vectors = delta.chunks[-1].vectors.copy()
    vectors.view(np.uint32)[0, 0] ^= 1
    return damaged(-1, vectors=vectors)(delta)


def of_another_span(delta: Delta) -> Delta:
    return dataclasses.replace(delta, span=dataclasses.replace(delta.span, to_clock=delta.to_clock + 1))


def renumbered(delta: Delta) -> Delta:
    """Two chunks change places, and their numbers with them."""
    a, b = delta.chunks[-1], delta.chunks[-2]
    swapped = (
        dataclasses.replace(a, sequence=b.sequence),
        dataclasses.replace(b, sequence=a.sequence),
    )
    return dataclasses.replace(delta, chunks=(*delta.chunks[:-2], *swapped))


FAULTS = {
    "a chunk is missing": with_chunks(lambda c: c[:-1]),
    "the first chunk is missing": with_chunks(lambda c: c[1:]),
    "all are missing": with_chunks(lambda _: []),
    "a chunk comes twice": with_chunks(lambda c: [*c, c[-1]]),
    "one replaces another": with_chunks(lambda c: [*c[:-1], c[0]]),
    "reordered": with_chunks(lambda c: c[::-1]),
    "renumbered": renumbered,
    "a bit is flipped": flipped,
    "ids are changed": damaged(-1, ids=u64([1] * 2)),
    "truncated": lambda d: damaged(0, ids=d.chunks[0].ids[:-1], vectors=d.chunks[0].vectors[:-1])(d),
    "another table": damaged(0, table="wide"),
    "an unknown table": damaged(0, table="nowhere"),
    "a wrong width": lambda d: damaged(0, vectors=d.chunks[0].vectors[:, :-1])(d),
    "removals are added": damaged(0, removed=u64([1])),
    "of another span": of_another_span,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_delta_is_refused_and_changes_nothing(fault: str) -> None:
    shard = pushed(seed=1)
    replica = ReplicaTables(shard.config)
    replica.apply([fetch(shard, replica)])
    rng = np.random.default_rng(2)
    for step in range(100, 110):
        shard.push("trainer", step, {"embedding": (u64(range(20)), gradients(rng, 20))}, 0)
    position, digests = replica.position(0), [replica.digest(table, 0) for table in TABLES]
    delta = fetch(shard, replica)
    assert len(delta.chunks) >= 3
    with pytest.raises(DeltaError, match=r"delta of shard 0"):
        replica.apply([FAULTS[fault](delta)])
    assert (replica.position(0), [replica.digest(table, 0) for table in TABLES]) == (position, digests)
    replica.apply([delta])
    assert_equal([shard], replica)


def test_a_delta_that_does_not_follow_is_refused() -> None:
    shard = pushed()
    replica, other = ReplicaTables(shard.config), ReplicaTables(shard.config)
    for each in (replica, other):
        each.apply([fetch(shard, each)])
    shard.push("trainer", 99, {"embedding": (u64([5]), np.ones((1, 4), np.float32))}, 0)
    skipped = fetch(shard, other)
    other.apply([skipped])
    with pytest.raises(DeltaError, match="the replica stands at"):
        other.apply([skipped])  # repeated
    shard.push("trainer", 100, {"embedding": (u64([6]), np.ones((1, 4), np.float32))}, 0)
    with pytest.raises(DeltaError, match="the replica stands at"):
        replica.apply([fetch(shard, other)])  # one was skipped


def test_one_bad_delta_of_a_round_keeps_out_the_others_and_the_commit() -> None:
    settings = config(shards=2)
    shards = [sharded(settings, index) for index in range(2)]
    replica = ReplicaTables(settings)
    deltas = [fetch(shard, replica) for shard in shards]
    committed: list[str] = []
    with pytest.raises(DeltaError):
        replica.apply([deltas[0], flipped(deltas[1])], lambda: committed.append("dense"))
    assert replica.positions() == (None, None)
    assert replica.row_counts() == {"embedding": 0, "wide": 0}
    replica.apply(deltas, lambda: committed.append("dense"))
    assert committed == ["dense"]
    with pytest.raises(DeltaError, match="one a shard"):
        replica.apply([deltas[0], deltas[0]])


def test_rows_of_another_shard_are_refused() -> None:
    settings = config(shards=2)
    shard = Shard(settings, 0)
    shard.push("a", 0, {"embedding": (u64(range(50)), np.ones((50, 4), np.float32))}, 0)
    replica = ReplicaTables(settings)
    with pytest.raises(DeltaError, match="another shard's"):
        replica.apply([fetch(shard, replica)])
    stranger = dataclasses.replace(
        shard.delta(None), span=dataclasses.replace(shard.delta(None).span, shard=7)
    )
    with pytest.raises(DeltaError, match="shard 7; legal is below 2"):
        replica.apply([stranger])


def test_a_replica_pulls_what_the_shard_would() -> None:
    shard = pushed()
    replica = ReplicaTables(shard.config)
    replica.apply([fetch(shard, replica)])
    ids = u64([*range(70), 2**64 - 1, 3])
    for table in TABLES:
        assert np.array_equal(replica.pull(table, ids), shard.pull([(table, ids)])[0])
    with replica.reading() as lookup:
        assert np.array_equal(lookup("wide", ids[:3]), shard.pull([("wide", ids[:3])])[0])
    with pytest.raises(InvalidRequest, match="table: 'nowhere'"):
        replica.pull("nowhere", ids)
    with pytest.raises(InvalidRequest, match="ids: int64"):
        replica.pull("wide", ids.astype(np.int64))


def test_readers_see_the_whole_round_with_its_commit_or_nothing_of_it() -> None:
    settings = config(shards=2)
    shards = [Shard(settings, index) for index in range(2)]
    ids = u64(range(400))
    mine = [ids[shard_of(ids, 2) == index] for index in range(2)]
    replica = ReplicaTables(settings)
    rounds = [0]
    torn: list[object] = []
    done = threading.Event()
    first = replica.pull("embedding", ids)

    def read() -> None:
        while not done.is_set():
            with replica.reading() as lookup:
                seen, moved = rounds[0], first - lookup("embedding", ids)
            if np.ptp(moved) > 1e-5 or (seen == 0) != (not moved.any()):
                torn.append((seen, moved))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for step in range(30):
        for shard, part in zip(shards, mine, strict=True):
            shard.push("a", step, {"embedding": (part, np.ones((len(part), 4), np.float32))}, 0)

        def commit(step: int = step) -> None:
            rounds[0] = step + 1

        replica.apply([fetch(shard, replica) for shard in shards], commit)
    done.set()
    for reader in readers:
        reader.join(10)
    assert torn == []
    assert_equal(shards, replica)


def test_an_empty_delta_moves_the_clock() -> None:
    shard = Shard(config(), 0)
    replica = ReplicaTables(shard.config)
    replica.apply([fetch(shard, replica)])
    shard.push("a", 0, {}, 0)
    replica.apply([fetch(shard, replica)])
    assert replica.position(0) == (shard.epoch, 1)


def of_one(delta: Delta, chunk: Chunk) -> Delta:
    one = dataclasses.replace(delta, count=1, chunks=(chunk,))
    return dataclasses.replace(one, seal=seal_of(one, [chunk.checksum]))


def test_a_chunk_with_an_id_twice_is_refused() -> None:
    delta = Shard(config(), 0).delta(None)
    twice = Changes(u64([1, 1]), np.ones((2, 4), np.float32), u64([]))
    chunk = sealed(delta.span, "embedding", 0, twice)
    replica = ReplicaTables(config())
    with pytest.raises(DeltaError, match="an id twice"):
        replica.apply([of_one(delta, chunk)])


def test_a_sealed_chunk_of_nothing_is_whole() -> None:
    shard = Shard(config(), 0)
    delta = shard.delta(None)
    empty = Changes(u64([]), np.empty((0, 4), np.float32), u64([]))
    chunk = sealed(delta.span, "embedding", 0, empty)
    replica = ReplicaTables(shard.config)
    replica.apply([over_the_wire(of_one(delta, chunk))])
    assert replica.row_counts()["embedding"] == 0

"""The shard: clocks, idempotent and atomic pushes, dense versions, concurrent readers."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import numpy as np
import pytest

from parameter_server.dense import DenseVersion
from parameter_server.errors import InvalidRequest, TrimmedError
from parameter_server.image import ShardImage
from parameter_server.inspect import inspect_row
from parameter_server.replica import ReplicaTables
from parameter_server.shard import MAINTAIN_EVERY, TRACES_KEPT, Shard
from schema.config import AdmissionConfig, TableConfig
from tests.parameter_server.cases import SMALL, config, gradients, random_round, u64

IDS = u64([1, 2, 3])
ONES = np.ones((3, 4), np.float32)
WIDE_ONES = np.ones((3, 9), np.float32)


def digests(shard: Shard) -> list[int]:
    return [shard.digest(name)[1] for name in shard.tables]


def test_a_retried_push_is_acknowledged_and_not_applied() -> None:
    shard = Shard(config(), 0)
    assert shard.push("a", 5, {"embedding": (IDS, ONES)}, 0) == (1, True)
    before = digests(shard)
    for step in (5, 4, 0):
        assert shard.push("a", step, {"embedding": (IDS, ONES)}, 0) == (1, False)
    assert digests(shard) == before
    assert shard.push("b", 4, {"embedding": (IDS, ONES)}, 0) == (2, True), "steps are by trainer"
    assert shard.state().steps == {"a": 5, "b": 4}


def test_a_push_without_ids_moves_clock_and_step() -> None:
    shard = Shard(config(), 0)
    assert shard.push("a", 0, {}, 0, [11, 12]) == (1, True)
    delta = shard.delta((shard.epoch, 0))
    assert (dict(delta.steps), delta.rows) == ({"a": 0}, 0)
    assert [(t.clock, t.step, t.completed_at.tolist()) for t in delta.traces] == [(1, 0, [11, 12])]


@pytest.mark.parametrize(
    "bad",
    [
        {"nowhere": (IDS, ONES)},
        {"wide": (IDS, ONES)},
        {"wide": (IDS, np.full((3, 9), np.nan, np.float32))},
    ],
)
def test_a_push_is_applied_to_all_tables_or_to_none(bad: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    shard = Shard(config(), 0)
    shard.push("a", 0, {"embedding": (IDS, ONES), "wide": (IDS, WIDE_ONES)}, 0)
    before = digests(shard)
    with pytest.raises(InvalidRequest):
        shard.push("a", 1, {"embedding": (IDS, ONES), **bad}, 0)
    assert (digests(shard), shard.state().clock, shard.state().steps) == (before, 1, {"a": 0})
    assert shard.push("a", 1, {"embedding": (IDS, ONES)}, 0).applied, "the refused step can be pushed again"


def test_unknown_tables_are_refused_with_the_legal_ones() -> None:
    shard = Shard(config(), 0)
    for call in (
        lambda: shard.pull([("nowhere", IDS)]),
        lambda: shard.evict("nowhere", IDS),
        lambda: shard.digest("nowhere"),
    ):
        with pytest.raises(InvalidRequest, match=r"table: 'nowhere'; legal are embedding, wide"):
            call()


def test_evictions_move_the_clock_only_when_rows_go() -> None:
    shard = Shard(config(), 0)
    shard.push("a", 0, {"embedding": (IDS, ONES)}, 0)
    assert shard.evict("embedding", u64([2, 9, 2])) == 1
    assert shard.evict("embedding", u64([2])) == 0
    assert (shard.state().clock, shard.row_counts()) == (2, {"embedding": 2, "wide": 0})


def test_the_ring_of_traces_is_bounded() -> None:
    shard = Shard(config(), 0)
    for step in range(TRACES_KEPT + 10):
        shard.push("a", step, {}, 0, [step])
    traces = shard.delta(None).traces
    assert [traces[0].step, traces[-1].step, len(traces)] == [10, TRACES_KEPT + 9, TRACES_KEPT]


def test_every_start_draws_a_new_epoch() -> None:
    assert len({Shard(config(), 0).epoch for _ in range(20)}) == 20
    assert 0 <= Shard(config(), 0).epoch < 2**63


def test_a_delta_under_way_when_its_shard_is_restored_does_not_end() -> None:
    shard = Shard(config(), 0)
    shard.push("a", 0, {"embedding": (IDS, ONES)}, 0)
    stream = iter(shard.stream(None))
    next(stream)
    shard.restore(ShardImage())
    with pytest.raises(TrimmedError, match="restored meanwhile"):
        list(stream)
    assert shard.row_counts()["embedding"] == 0


def test_dense_versions_only_rise() -> None:
    dense = Shard(config(), 0).dense
    assert dense.get("model", -1) is None
    assert dense.put("model", DenseVersion(3, 30, b"three"))
    assert not dense.put("model", DenseVersion(3, 31, b"again"))
    assert not dense.put("model", DenseVersion(2, 20, b"two"))
    assert dense.get("model", 2) == (3, 30, b"three")
    assert dense.get("model", 3) is None
    assert dense.put("other", DenseVersion(0, 0, b""))
    assert dense.get("other", -1) == (0, 0, b"")


GROWING = TableConfig(name="embedding", dim=4, capacity=16, widths=(1, 2, 4), grow_at=(5, 15), ttl_seconds=10)


@pytest.mark.parametrize("table", [SMALL, GROWING], ids=["one width", "widths and expiry"])
def test_readers_beside_a_writer_see_whole_pushes(table: TableConfig) -> None:
    """While entries are kicked, the index doubles, and rows grow in width, go, and are taken again."""
    shard = Shard(config(tables=(table,)), 0)
    ids = u64(range(2000))
    flat = np.ones((len(ids), 4), np.float32)
    shard.push("a", 0, {"embedding": (ids, flat)}, 0)
    start = shard.pull([("embedding", ids)])[0]
    torn: list[float] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            moved = start - shard.pull([("embedding", ids)])[0]
            torn.append(float(np.ptp(moved, axis=0).max()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    rng = np.random.default_rng(0)
    for step in range(1, 40):
        shard.push("a", step, {"embedding": (ids, flat)}, step * 1000)
        new = rng.integers(10_000, 2**62, 300, dtype=np.uint64)
        shard.push("b", step, {"embedding": (new, gradients(rng, 300))}, step * 1000)
    done.set()
    for reader in readers:
        reader.join(10)
    assert torn
    assert max(torn) < 1e-5, "a pull saw some rows before a push and some after it"
    shard.check_integrity()
    counters = shard.counters()["embedding"]
    assert (table is GROWING) == (min(counters.grown, counters.expired) > 0)


def test_any_number_of_replicas_costs_the_shard_no_memory() -> None:
    shard = Shard(config(chunk_rows=1000), 0)
    rng = np.random.default_rng(3)
    for step in range(20):
        random_round(shard, rng, step)
    clock = shard.state().clock

    def serve(replicas: int) -> None:
        for number in range(replicas):
            shard.delta((shard.epoch, clock - number % 20) if number % 5 else None)

    serve(20)
    gc.collect()
    tracemalloc.start()
    serve(20)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    serve(200)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 200 * 8, "less than a pointer each"
    assert not shard._open


def test_a_random_history_keeps_its_integrity() -> None:
    shard = Shard(config(), 0)
    rng = np.random.default_rng(5)
    for step in range(60):
        random_round(shard, rng, step)
        shard.check_integrity()
    assert shard.state().clock > 60


def test_what_a_budget_evicts_leaves_by_tombstone_and_a_replica_follows() -> None:
    table = TableConfig(name="embedding", dim=4, capacity=16, memory_mb=0.1)
    shard, replica = Shard(config(tables=(table,)), 0), ReplicaTables(config(tables=(table,)))
    for step in range(3 * MAINTAIN_EVERY):
        ids = u64(range(step * 100, step * 100 + 100))
        shard.push("t", step, {"embedding": (ids, np.ones((100, 4), np.float32))}, event_time=step * 1000)
        if step % 7 == 0:
            replica.apply([shard.delta(replica.position(0))])
    delta = shard.delta(replica.position(0))
    assert not delta.full
    replica.apply([delta])
    evicted = shard.counters()["embedding"].evicted
    assert evicted == shard.tombstone_counts()["embedding"] > 0
    assert replica.row_counts() == shard.row_counts() == {"embedding": 4800 - evicted}
    assert replica.digest("embedding", 0) == shard.digest("embedding")[1]


def test_what_is_known_of_an_id_before_and_after_it_has_a_row() -> None:
    admission = AdmissionConfig(kind="count", threshold=3)
    table = TableConfig(name="embedding", dim=4, capacity=16, admission=admission, ttl_seconds=60)
    shard = Shard(config(tables=(table,)), 0)
    for step in range(2):
        shard.push("t", step, {"embedding": (IDS, ONES)}, event_time=1000)
    seen = inspect_row(shard, "embedding", 2)
    assert (seen.row, seen.sightings, seen.version, seen.state_norm, seen.expires_at) == (
        None,
        2,
        *[None] * 3,
    )
    assert seen.vector == shard.pull([("embedding", IDS)])[0][1].tolist()
    shard.push("t", 2, {"embedding": (IDS, ONES)}, event_time=5000)
    found = inspect_row(shard, "embedding", 2)
    assert (found.sightings, found.version, found.width, found.last_use) == (0, 3, 4, 5000)
    assert found.expires_at == 65_000
    assert found.row is not None
    assert found.state_norm == pytest.approx(1.025)


def test_expired_rows_leave_by_tombstone_and_a_replica_follows() -> None:
    table = TableConfig(name="embedding", dim=4, capacity=16, ttl_seconds=1)
    shard = Shard(config(tables=(table,)), 0)
    replica = ReplicaTables(config(tables=(table,)))
    ones = np.ones((1, 4), np.float32)
    shard.push("t", 0, {"embedding": (u64([1]), ones)}, event_time=1000)
    replica.apply([shard.delta(None)])
    for step in range(1, 2 * MAINTAIN_EVERY):
        shard.push("t", step, {"embedding": (u64([2]), ones)}, event_time=60_000)
    assert shard.row_counts() == {"embedding": 1}
    assert shard.counters()["embedding"].expired == 1
    delta = shard.delta(replica.position(0))
    assert not delta.full
    replica.apply([delta])
    assert replica.digest("embedding", 0) == shard.digest("embedding")[1]
    shard.check_integrity()

"""Tables of every kind through deltas and checkpoints: several widths, admission, other optimizers, packing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from parameter_server import checkpoint
from parameter_server.checkpoint import Checkpoints
from parameter_server.errors import CheckpointError
from parameter_server.replica import ReplicaTables
from parameter_server.restore import open_shard
from parameter_server.shard import MAINTAIN_EVERY, Shard
from schema.config import (
    AdmissionConfig,
    OptimizerConfig,
    ParameterServerConfig,
    ReplicaRows,
    SlotRowsConfig,
    TableConfig,
)
from tests.parameter_server.cases import config, gradients, u64

SIZED = TableConfig(
    name="embedding",
    dim=8,
    widths=(2, 4, 8),
    grow_at=(3, 6),
    capacity=16,
    optimizer=OptimizerConfig(kind="adam"),
    slots={1: SlotRowsConfig(optimizer=OptimizerConfig(kind="ftrl"))},
    memory_mb=0.06,
)
COUNTED = TableConfig(
    name="embedding", dim=8, capacity=16, admission=AdmissionConfig(kind="count", threshold=3)
)
IDS = 900


def settings(table: TableConfig, **changes: object) -> ParameterServerConfig:
    return config(**{"tables": (table,), "chunk_rows": 40, "tombstones_kept": 100_000, **changes})


class History:
    """Pushes and removals without end, the same for the same seed."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(6)
        self.step = 0

    def change(self, *shards: Shard, ids: int = IDS) -> None:
        chosen = self.rng.zipf(1.3, 60).astype(np.uint64) % np.uint64(ids)
        chosen |= (chosen % np.uint64(2)) << np.uint64(48)
        values, gone = gradients(self.rng, 60, 8), chosen[:2]
        for shard in shards:
            shard.push("a", self.step, {"embedding": (chosen, values)}, self.step * 1000)
            shard.evict("embedding", gone)
        self.step += 1


@pytest.mark.parametrize("form", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("table", [SIZED, COUNTED], ids=["sized", "counted"])
def test_a_replica_follows_while_rows_grow_shrink_and_go(table: TableConfig, form: ReplicaRows) -> None:
    chosen = settings(table, replica_rows=form)
    shard, replica, history = Shard(chosen, 0), ReplicaTables(chosen), History()
    for _ in range(12):
        stream = shard.stream(replica.position(0))
        chunks = []
        for chunk in stream:
            chunks.append(chunk)
            if stream.open:
                history.change(shard)
        replica.apply([replace(stream.trailer, chunks=tuple(chunks))])
        assert replica.digest("embedding", 0) == shard.digest("embedding")[1]
        for _ in range(MAINTAIN_EVERY):
            history.change(shard)
        shard.check_integrity()
        replica.check_integrity()
    unseen = u64([10**12, 1 << 48 | 10**12])
    assert np.array_equal(replica.pull("embedding", unseen), shard.pull([("embedding", unseen)])[0])
    if table is SIZED:
        counters = shard.counters()["embedding"]
        assert min(counters.grown, counters.demoted) > 0


@pytest.mark.parametrize("table", [SIZED, COUNTED], ids=["sized", "counted"])
def test_a_restored_shard_goes_on_alike(tmp_path: Path, table: TableConfig) -> None:
    table = msgspec.structs.replace(table, memory_mb=None)
    shard, history = Shard(settings(table), 0), History()
    checkpoints = Checkpoints(tmp_path / "shard-0", kept=2, shards=1)
    for _ in range(3):
        for _ in range(10):
            history.change(shard)
        checkpoints.save(shard)
    checkpoints.close()
    back = open_shard(settings(table), 0, tmp_path)
    assert back.shard.digest("embedding") == shard.digest("embedding")
    for _ in range(20):
        history.change(shard, back.shard)
    assert back.shard.digest("embedding") == shard.digest("embedding"), "state, uses or counts were lost"
    mine, its = (each.row_of("embedding", 1 << 48 | 1).state for each in (shard, back.shard))
    assert mine.uses == its.uses
    assert mine == its._replace(row=mine.row)
    back.shard.check_integrity()
    back.checkpoints.close()


def test_counts_of_ids_without_a_row_follow_them_to_other_shards(tmp_path: Path) -> None:
    before, after = settings(COUNTED), settings(COUNTED, shards=2)
    shard, ids = Shard(before, 0), u64(range(50))
    for step in range(2):
        shard.push("a", step, {"embedding": (ids, np.ones((50, 8), np.float32))}, 0)
    checkpoints = Checkpoints(tmp_path / "shard-0", kept=2, shards=1)
    checkpoints.save(shard)
    checkpoints.close()
    opened = [open_shard(after, index, tmp_path) for index in range(2)]
    seen = [each.shard.row_of("embedding", int(i)).state.sightings for each in opened for i in ids]
    assert sorted(seen) == [0] * 50 + [2] * 50
    for each in opened:
        each.checkpoints.close()


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"dim": 4, "widths": (), "grow_at": ()}, "dim 8 in the checkpoint; configured is 4"),
    ({"optimizer": OptimizerConfig(kind="sgd")}, "optimizer of slot 0: adam in the .*; configured is sgd"),
    (
        {"slots": {1: SlotRowsConfig(optimizer=OptimizerConfig(kind="adagrad"))}},  # of no other size in all
        "table embedding: optimizer of slot 1: ftrl in the checkpoint; configured is adagrad",
    ),
    ({"slots": {}}, "optimizer of slot 1: ftrl in the checkpoint; configured is adam"),
    ({"widths": (2, 8), "grow_at": (3,)}, r"rows of width \[4\] in the checkpoint; configured are \[2, 8\]"),
]


@pytest.mark.parametrize(("changes", "says"), REFUSED)
def test_a_checkpoint_of_another_kind_of_table_is_refused(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    shard, history = Shard(settings(SIZED), 0), History()
    for _ in range(10):
        history.change(shard)
    checkpoints = Checkpoints(tmp_path, kept=2, shards=1)
    path = checkpoints.save(shard).path
    checkpoints.close()
    other = msgspec.structs.replace(SIZED, **changes)
    with pytest.raises(CheckpointError, match=says):
        Shard(settings(other), 0, checkpoint.load(path))


def test_a_checkpoint_of_other_optimizers_is_refused_by_other_shards_too(tmp_path: Path) -> None:
    shard, history = Shard(settings(SIZED), 0), History()
    history.change(shard)
    checkpoints = Checkpoints(tmp_path / "shard-0", kept=2, shards=1)
    checkpoints.save(shard)
    checkpoints.close()
    other = settings(msgspec.structs.replace(SIZED, slots={}), shards=2)
    with pytest.raises(CheckpointError, match="optimizer of slot 1: ftrl in the checkpoint; configured is"):
        open_shard(other, 0, tmp_path)


def test_other_rates_and_an_optimizer_of_a_slot_to_come_are_taken_up(tmp_path: Path) -> None:
    plain = msgspec.structs.replace(COUNTED, admission=AdmissionConfig())
    shard, history = Shard(settings(plain), 0), History()
    for _ in range(10):
        history.change(shard)
    checkpoints = Checkpoints(tmp_path / "shard-0", kept=2, shards=1)
    checkpoints.save(shard)
    checkpoints.close()
    adam = SlotRowsConfig(optimizer=OptimizerConfig(kind="adam"))
    chosen = settings(msgspec.structs.replace(plain, slots={77: adam}))  # whose state is the widest now
    back = open_shard(chosen, 0, tmp_path)
    for _ in range(10):
        history.change(shard, back.shard)
    assert back.shard.digest("embedding") == shard.digest("embedding"), "state was lost"
    ids = u64([77 << 48])
    for step in (1000, 1001):
        back.shard.push("a", step, {"embedding": (ids, np.ones((1, 8), np.float32))}, 0)
    back.checkpoints.save(back.shard)
    back.checkpoints.close()
    again = open_shard(chosen, 0, tmp_path)
    assert again.shard.digest("embedding") == back.shard.digest("embedding")
    again.checkpoints.close()
    faster = msgspec.structs.replace(plain, slots={77: adam}, optimizer=OptimizerConfig(learning_rate=0.5))
    open_shard(settings(faster), 0, tmp_path).checkpoints.close()


def test_no_row_moves_while_a_sweep_is_open() -> None:
    table = TableConfig(name="embedding", dim=4, capacity=16)
    chosen = settings(table, chunk_rows=100)
    shard, replica = Shard(chosen, 0), ReplicaTables(chosen)
    ids, one = u64(range(6000)), u64([10**9])
    shard.push("a", 0, {"embedding": (ids, gradients(np.random.default_rng(0), 6000))}, 0)
    steps = iter(range(1, 10**6))

    def rest() -> None:
        for _ in range(40 * MAINTAIN_EVERY):
            shard.push("a", next(steps), {"embedding": (one, np.ones((1, 4), np.float32))}, 0)

    stream = shard.stream(None)
    reading = iter(stream)
    taken = [next(reading)]
    shard.evict("embedding", ids[:5900])
    capacity = len(shard.tables["embedding"]._rows.records)
    rest()
    assert len(shard.tables["embedding"]._rows.records) == capacity
    taken += reading
    replica.apply([replace(stream.trailer, chunks=tuple(taken))])
    assert replica.digest("embedding", 0) == shard.digest("embedding")[1]
    given_up = iter(shard.stream(None))
    next(given_up)
    del given_up
    rest()
    assert len(shard.tables["embedding"]._rows.records) < capacity, "packed once nothing is open"
    replica.apply([shard.delta(replica.position(0))])
    assert replica.digest("embedding", 0) == shard.digest("embedding")[1]
    shard.check_integrity()

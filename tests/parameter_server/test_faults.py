"""A network and processes that fail: the replica always ends equal to its shards, or says that it is not."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from parameter_server import wire
from parameter_server.delta import Delta
from parameter_server.errors import DeltaError
from parameter_server.replica import ReplicaTables
from parameter_server.router import shard_of
from parameter_server.shard import Shard
from parameter_server.stream import DeltaStream
from schema.config import ParameterServerConfig, ReplicaRows
from tests.parameter_server.cases import WIDE, config, gradients

TABLES = ("embedding", "wide")
FORMS: tuple[ReplicaRows, ...] = ("fp32", "fp16", "int8")
Message = tuple[pa.RecordBatch, Any]


def sent(shard: Shard, since: tuple[int, int] | None) -> tuple[pa.Schema, list[Message]]:
    """What goes over the network for a delta."""
    stream = shard.stream(since)
    schema = wire.delta_schema(stream.start)
    batches: list[Message] = [(wire.encode_chunk(chunk, schema), None) for chunk in stream]
    return schema, [*batches, (wire.empty_batch(schema), wire.encode_trailer(stream.trailer))]


def flipped(message: Message, rng: random.Random) -> Message:
    """One bit of the rows' values changed."""
    batch, ending = message
    values = batch.column("values")
    if not batch.num_rows or not len(values.values):
        return batch.slice(0, 0), ending
    raw = values.values.to_numpy(zero_copy_only=False).copy()
    raw.view(np.uint32)[rng.randrange(len(raw))] ^= np.uint32(1 << rng.randrange(32))
    changed = pa.LargeListArray.from_arrays(pa.array([0, len(raw)], pa.int64()), pa.array(raw))
    columns = [changed if name == "values" else batch.column(name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema), ending


def faulty(messages: list[Message], rng: random.Random, other: list[Message]) -> list[Message]:
    """`messages` as a bad network delivers them; `other` were sent before."""
    messages = list(messages)
    place = rng.randrange(len(messages))
    match rng.randrange(7):
        case 0:
            del messages[place]
        case 1:
            messages.insert(rng.randrange(len(messages) + 1), messages[place])
        case 2:
            messages = messages[:place]
        case 3:
            rng.shuffle(messages)
        case 4:
            messages[place] = flipped(messages[place], rng)
        case 5:
            messages[place] = rng.choice(other or messages)
        case _:
            messages.insert(place, rng.choice(other or messages))
    return messages


class World:
    """Two shards, a replica, and a network between them."""

    def __init__(self, form: ReplicaRows, seed: int) -> None:
        self.settings: ParameterServerConfig = config(
            shards=2, replica_rows=form, tombstones_kept=40, chunk_rows=7
        )
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.shards = [Shard(self.settings, index) for index in range(2)]
        self.replica = ReplicaTables(self.settings)
        self.heard: list[list[Message]] = [[], []]
        self.step = 0
        self.refused = self.applied = 0

    def train(self) -> None:
        ids = self.numbers.integers(0, 120, 30, dtype=np.uint64)
        gone = self.numbers.integers(0, 120, self.rng.randrange(8), dtype=np.uint64)
        for index, shard in enumerate(self.shards):
            mine = ids[shard_of(ids, 2) == index]
            pairs = {
                "embedding": (mine, gradients(self.numbers, len(mine))),
                "wide": (mine[:4], gradients(self.numbers, len(mine[:4]), WIDE.dim)),
            }
            shard.push("a", self.step, pairs, self.step)
            shard.evict("embedding", gone[shard_of(gone, 2) == index])
        self.step += 1

    def sync(self, *, fault: bool) -> None:
        deltas = [self._fetch(shard, fault=fault and self.rng.random() < 0.7) for shard in self.shards]
        before = self.replica.positions()
        digests = self.digests()
        if any(delta is None for delta in deltas):
            return
        try:
            self.replica.apply([delta for delta in deltas if delta is not None])
        except DeltaError:
            self.refused += 1
            assert (self.replica.positions(), self.digests()) == (before, digests), "it changed something"
        else:
            self.applied += 1
            self.check_equal()

    def _fetch(self, shard: Shard, *, fault: bool) -> Delta | None:
        schema, messages = sent(shard, self.replica.position(shard.index))
        arriving = faulty(messages, self.rng, self.heard[shard.index]) if fault else messages
        self.heard[shard.index] = messages
        try:
            return wire.decode_delta(schema, arriving)
        except DeltaError:
            self.refused += 1
            return None

    def digests(self) -> list[int]:
        return [self.replica.digest(table, shard) for table in TABLES for shard in range(2)]

    def check_equal(self) -> None:
        for shard in self.shards:
            assert self.replica.position(shard.index) == (shard.epoch, shard.state().clock)
            for table in TABLES:
                assert self.replica.digest(table, shard.index) == shard.digest(table)[1]

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for _ in range(self.rng.randrange(4)):
                self.train()
            if self.rng.random() < 0.05:
                index = self.rng.randrange(2)
                self.shards[index] = Shard(self.settings, index)
            if self.rng.random() < 0.05:
                self.replica = ReplicaTables(self.settings)
            self.sync(fault=self.rng.random() < 0.6)
        self.sync(fault=False)
        self.check_equal()
        self.replica.check_integrity()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(2))
def test_through_every_fault_the_replica_equals_its_shards_or_says_that_it_does_not(
    form: ReplicaRows, seed: int
) -> None:
    world = World(form, seed)
    world.run(50)
    assert world.refused > 10
    assert world.applied > 10


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_through_a_long_history_of_faults(form: ReplicaRows) -> None:
    for seed in range(100, 160):
        World(form, seed).run(150)


@pytest.mark.parametrize("start", ["everything", "a clock"])
def test_a_delta_read_while_pushes_go_on_is_the_shard_at_the_clock_that_it_ends_at(start: str) -> None:
    """Pushes and removals happen between any two chunks; only the last chunks are of one moment."""
    settings = config(chunk_rows=3, tombstones_kept=10_000)
    shard, replica = Shard(settings, 0), ReplicaTables(settings)
    rng = np.random.default_rng(0)
    steps = iter(range(10**6))

    def change() -> None:
        ids = rng.integers(0, 300, 9, dtype=np.uint64)
        shard.push("a", next(steps), {"embedding": (ids, gradients(rng, len(ids)))}, 0)
        shard.evict("embedding", rng.integers(0, 300, 3, dtype=np.uint64))

    for _ in range(60):
        change()
    if start == "a clock":
        replica.apply([shard.delta(None)])
        for _ in range(30):
            change()

    def arriving(stream: DeltaStream, schema: pa.Schema) -> Iterator[Message]:
        for number, chunk in enumerate(stream):
            yield wire.encode_chunk(chunk, schema), None
            if number < 40 and stream.open:
                change()
        yield wire.empty_batch(schema), wire.encode_trailer(stream.trailer)

    for _ in range(4):
        stream = shard.stream(replica.position(0))
        schema = wire.delta_schema(stream.start)
        replica.apply([wire.decode_delta(schema, arriving(stream, schema))])
        assert replica.position(0) == (shard.epoch, shard.state().clock)
        assert replica.digest("embedding", 0) == shard.digest("embedding")[1]
        for _ in range(300):  # more than the shard remembers of recent pushes, now and then
            change()


def test_a_replica_that_follows_beside_a_busy_trainer_is_never_torn() -> None:
    settings = config(chunk_rows=50, tombstones_kept=100_000)
    shard, replica = Shard(settings, 0), ReplicaTables(settings)
    done = threading.Event()
    contents: dict[int, int] = {}

    def train() -> None:
        rng = np.random.default_rng(1)
        step = 0
        while not done.is_set():
            ids = rng.integers(0, 5000, 300, dtype=np.uint64)
            shard.push("a", step, {"embedding": (ids, gradients(rng, len(ids)))}, 0)
            clock, digest = shard.digest("embedding")
            contents[clock] = digest
            step += 1

    trainer = threading.Thread(target=train)
    trainer.start()
    seen = []
    for _ in range(25):
        replica.apply([shard.delta(replica.position(0))])
        position = replica.position(0)
        assert position is not None
        seen.append((position[1], replica.digest("embedding", 0)))
    done.set()
    trainer.join(30)
    assert [digest for _, digest in seen] == [contents.get(clock, 0) for clock, _ in seen]


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_packed_rows_are_close_to_the_shards_and_proved_equal_to_what_it_sends(form: ReplicaRows) -> None:
    settings = config(replica_rows=form)
    exact, packed = Shard(config(), 0), Shard(settings, 0)
    rng = np.random.default_rng(3)
    ids = np.arange(200, dtype=np.uint64)
    values = gradients(rng, 200, WIDE.dim)
    values[7] = 0
    for shard in (exact, packed):
        shard.push("a", 0, {"wide": (ids, values)}, 0)
    replica = ReplicaTables(settings)
    replica.apply([packed.delta(None)])
    assert replica.digest("wide", 0) == packed.digest("wide")[1] != exact.digest("wide")[1]
    wanted = exact.pull([("wide", ids)])[0]
    held = replica.pull("wide", ids)
    bound = 2**-11 if form == "fp16" else 1 / 250
    assert (np.abs(held - wanted) <= bound * np.abs(wanted).max(axis=1, keepdims=True) + 1e-7).all()
    unseen = np.array([10**9, 10**10], np.uint64)
    assert np.array_equal(replica.pull("wide", unseen), exact.pull([("wide", unseen)])[0])
    wire_bytes = sum(chunk.vectors.nbytes for chunk in packed.delta(None).chunks)
    assert wire_bytes < 0.7 * sum(chunk.vectors.nbytes for chunk in exact.delta(None).chunks)

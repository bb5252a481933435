"""Raw Flight requests of any shape: refused with a status that says why, or served; the shard goes on."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import flight

from parameter_server import messages, wire
from parameter_server.server import ShardServer
from parameter_server.shard import Shard
from tests.parameter_server.cases import config, u64

OPTIONS = flight.FlightCallOptions(timeout=10)
IDS = u64(range(50))


class Target:
    """A shard with some rows, and a raw client of it."""

    def __init__(self) -> None:
        self.shard = Shard(config(max_message_mb=1), 0)
        self.shard.push("a", 10**12, {"embedding": (IDS, np.ones((50, 4), np.float32))}, 0)
        self.server = ShardServer(self.shard, "127.0.0.1", 0)
        self.client = flight.connect(f"grpc://127.0.0.1:{self.server.port}")

    def content(self) -> object:
        digests = [self.shard.digest(name) for name in self.shard.tables]
        return digests, self.shard.state(), self.shard.row_counts(), self.shard.dense.all()

    def put(self, header: bytes, batch: pa.RecordBatch) -> None:
        descriptor = flight.FlightDescriptor.for_command(header)
        writer, replies = self.client.do_put(descriptor, batch.schema, OPTIONS)
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            replies.read()

    def exchange(self, header: bytes, batch: pa.RecordBatch) -> None:
        writer, reader = self.client.do_exchange(flight.FlightDescriptor.for_command(header), OPTIONS)
        with writer:
            writer.begin(batch.schema)
            writer.write_batch(batch)
            writer.done_writing()
            reader.read_chunk()

    def act(self, name: str, body: bytes) -> None:
        list(self.client.do_action(flight.Action(name, body), OPTIONS))

    def get(self, ticket: bytes) -> None:
        self.client.do_get(flight.Ticket(ticket), OPTIONS).read_all()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    one = Target()
    yield one
    one.server.shutdown()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = sorted(
    {field for kind in [*messages.ACTIONS.values(), messages.Push] for field in kind.__struct_fields__}
)
HEADERS = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8).map(msgspec.msgpack.encode),
    # a header that is right but for one field
    st.tuples(st.sampled_from(FIELDS), VALUES).map(
        lambda change: msgspec.msgpack.encode(
            {"shard": 0, "shards": 1, "trainer": "a", "step": 5, "event_time": 0, "completed_at": b""}
            | {change[0]: change[1]}
        )
    ),
)
LISTS = (
    pa.large_list(pa.uint64()),
    pa.large_list(pa.float32()),
    pa.large_list(pa.int64()),
    pa.list_(pa.float64()),
)
GOOD = messages.encode(messages.Push(0, 1, "b", 5, 0, b""))


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Columns that are nearly those of blocks: wrong names, types, lengths, nulls, or values not finite."""
    rows = draw(st.integers(0, 3))
    columns = {}
    for name in draw(st.permutations(["table", "ids", "values", "more"]))[: draw(st.integers(1, 4))]:
        kind = draw(st.sampled_from([pa.string(), *LISTS]))
        if kind == pa.string():
            values = draw(
                st.lists(st.sampled_from(["embedding", "wide", "", None]), min_size=rows, max_size=rows)
            )
        else:
            numbers = st.integers(0, 99) if pa.types.is_integer(kind.value_type) else st.floats(width=32)
            inner = st.one_of(st.none(), st.lists(st.one_of(st.none(), numbers), max_size=9))
            values = draw(st.lists(inner, min_size=rows, max_size=rows))
        columns[name] = pa.array(values, kind)
    return pa.RecordBatch.from_pydict(columns)


@st.composite
def blocks(draw: st.DrawFn) -> pa.RecordBatch:
    """Blocks of the right types whose tables, lengths or values are wrong."""
    made = []
    for _ in range(draw(st.integers(0, 3))):
        count = draw(st.integers(0, 6))
        bad = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
        values = np.full(draw(st.integers(0, 30)), bad, np.float32)
        made.append(wire.Block(draw(st.sampled_from(["embedding", "wide", "x"])), u64(range(count)), values))
    return wire.encode_blocks(made)


@settings(max_examples=150)
@given(HEADERS, st.one_of(batches(), blocks()), st.sampled_from(["put", "exchange"]))
def test_columns_and_headers_of_any_kind(
    target: Target, header: bytes, batch: pa.RecordBatch, how: str
) -> None:
    survive(target, lambda: getattr(target, how)(header, batch))


@settings(max_examples=100)
@given(st.one_of(batches(), blocks()))
def test_columns_of_any_kind_under_a_good_header(target: Target, batch: pa.RecordBatch) -> None:
    survive(target, lambda: target.put(GOOD, batch))


CHANGING = {"restore", "checkpoint", "put_dense", "evict"}


@settings(max_examples=100)
@given(st.one_of(st.sampled_from(sorted(messages.ACTIONS)), st.text(max_size=9)), HEADERS)
def test_actions_of_any_kind(target: Target, name: str, body: bytes) -> None:
    if name not in CHANGING or b"name" not in body:
        survive(target, lambda: target.act(name, body))


@settings(max_examples=50)
@given(HEADERS)
def test_tickets_of_any_kind(target: Target, ticket: bytes) -> None:
    survive(target, lambda: target.get(ticket))


def survive(target: Target, call: object) -> None:
    """The call is served, or refused with a reason; what it may have changed is only what a push may change."""
    before = target.content()
    clock = target.shard.state().clock
    try:
        call()  # type: ignore[operator]
    except pa.ArrowInvalid:  # the status of an invalid argument; a fault of the shard would be another
        assert target.content() == before
    else:
        # a push of nothing, or of huge but finite gradients, is a push
        assert target.shard.state().clock - clock in (0, 1)
    target.act("state", messages.encode(messages.State(0, 1)))


def lying(claimed: int) -> pa.RecordBatch:
    """A list that claims `claimed` values of the one there is; it is true while it is built."""
    offsets = np.array([0, 1])
    kind = pa.large_list(pa.uint64())
    lists = pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(offsets)], children=[pa.array(u64([1]))])
    good = wire.encode_blocks([wire.Block("embedding", u64([1]), np.ones(4, np.float32))])
    batch = pa.RecordBatch.from_arrays(
        [good.column("table"), lists, good.column("values")], schema=wire.BLOCKS
    )
    offsets[1] = claimed
    return batch


@pytest.mark.parametrize("claimed", [2, 10 << 27, 2**62])
def test_a_list_that_claims_gigabytes_is_refused(target: Target, claimed: int) -> None:
    survive(target, lambda: target.put(GOOD, lying(claimed)))
    survive(target, lambda: target.exchange(messages.encode(messages.Pull(0, 1)), lying(claimed)))


def test_a_message_beyond_the_limit_is_refused_by_name(target: Target) -> None:
    many = u64(range(200_000))
    batch = wire.encode_blocks([wire.Block("embedding", many, np.ones(len(many) * 4, np.float32))])
    before = target.content()
    with pytest.raises(
        pa.ArrowInvalid, match=r"message: \d+ bytes; legal is at most 1048576 \(max_message_mb\)"
    ):
        target.put(GOOD, batch)
    assert target.content() == before

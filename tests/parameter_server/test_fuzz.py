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
from tests.parameter_server.cases import block, config, push_header, u64

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

    def put(self, header: bytes, ids: bytes, batch: pa.RecordBatch) -> None:
        descriptor = flight.FlightDescriptor.for_command(header)
        writer, replies = self.client.do_put(descriptor, batch.schema, OPTIONS)
        with writer:
            writer.write_with_metadata(batch, pa.py_buffer(ids))
            writer.done_writing()
            replies.read()

    def exchange(self, header: bytes, ids: bytes, batch: pa.RecordBatch | None = None) -> None:
        writer, reader = self.client.do_exchange(flight.FlightDescriptor.for_command(header), OPTIONS)
        with writer:
            writer.write_metadata(pa.py_buffer(ids))
            if batch is not None:
                writer.begin(batch.schema)
                writer.write_batch(batch)
            writer.done_writing()
            reader.read_chunk()

    def push_and_pull(self, header: bytes, ids: bytes, batch: pa.RecordBatch) -> None:
        writer, reader = self.client.do_exchange(flight.FlightDescriptor.for_command(header), OPTIONS)
        with writer:
            writer.begin(batch.schema)
            writer.write_with_metadata(batch, pa.py_buffer(ids))
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
    {
        field
        for kind in [*messages.ACTIONS.values(), messages.Push, messages.Pull]
        for field in kind.__struct_fields__
    }
)
HEADERS = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=8).map(msgspec.msgpack.encode),
    # a header that is right but for one field
    st.tuples(st.sampled_from(FIELDS), VALUES).map(
        lambda change: msgspec.msgpack.encode(
            {
                "shard": 0,
                "shards": 1,
                "trainer": "a",
                "step": 5,
                "event_time": 0,
                "completed_at": b"",
                "blocks": [],
                "tables": [],
            }
            | {change[0]: change[1]}
        )
    ),
)
KINDS = (pa.float32(), pa.float64(), pa.uint64(), pa.large_list(pa.float32()), pa.string())
IDS_OF_ANY_LENGTH = st.one_of(st.binary(max_size=40), st.integers(0, 6).map(lambda n: bytes(range(8 * n))))


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    """Columns that are nearly those of values: wrong names, types, lengths, nulls, or values not finite."""
    rows = draw(st.integers(0, 24))
    columns = {}
    for name in draw(st.permutations(["values", "ids", "more"]))[: draw(st.sampled_from([1, 1, 1, 2, 3]))]:
        kind = draw(st.sampled_from([pa.float32(), *KINDS]))
        if kind == pa.string():
            numbers: st.SearchStrategy[object] = st.text(max_size=3)
        elif pa.types.is_integer(kind):
            numbers = st.integers(0, 99)
        else:
            numbers = st.sampled_from([0.5, -1.0, np.nan, np.inf, 3e38, None])
        if pa.types.is_large_list(kind):
            numbers = st.lists(numbers, max_size=3)
        columns[name] = pa.array(draw(st.lists(numbers, min_size=rows, max_size=rows)), kind)
    return pa.RecordBatch.from_pydict(columns)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Headers of pushes that are well-formed, but whose tables, ids or values may be others than follow."""
    sizes = st.integers(0, 30) | st.sampled_from([10 << 30, 2**62])
    extents = st.tuples(st.sampled_from(["embedding", "wide", "x"]), st.integers(0, 6) | sizes, sizes)
    blocks = tuple(draw(st.lists(extents, max_size=3)))
    return messages.encode(messages.Push(0, 1, "b", 5, 0, b"", blocks))


@st.composite
def pushes(draw: st.DrawFn) -> tuple[bytes, bytes, pa.RecordBatch]:
    """Pushes that hang together but for tables, lengths or values that are wrong."""
    made = []
    for _ in range(draw(st.integers(0, 3))):
        bad = draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
        table = draw(st.sampled_from(["embedding", "wide", "x"]))
        made.append(block(table, draw(st.integers(0, 6)), draw(st.integers(0, 30)), bad))
    encoded = wire.encode_blocks(made)
    return push_header(*made), encoded.ids.to_pybytes(), encoded.values


@settings(max_examples=150)
@given(HEADERS, IDS_OF_ANY_LENGTH, batches(), st.sampled_from(["put", "exchange", "push_and_pull"]))
def test_columns_and_headers_of_any_kind(
    target: Target, header: bytes, ids: bytes, batch: pa.RecordBatch, how: str
) -> None:
    survive(target, lambda: getattr(target, how)(header, ids, batch))


@settings(max_examples=100)
@given(headers(), IDS_OF_ANY_LENGTH, batches())
def test_columns_of_any_kind_under_a_good_header(
    target: Target, header: bytes, ids: bytes, batch: pa.RecordBatch
) -> None:
    survive(target, lambda: target.put(header, ids, batch))


@settings(max_examples=100)
@given(pushes())
def test_pushes_that_hang_together(target: Target, push: tuple[bytes, bytes, pa.RecordBatch]) -> None:
    survive(target, lambda: target.put(*push))


ASKED = st.lists(
    st.tuples(st.sampled_from(["embedding", "wide", "x"]), st.integers(0, 6) | st.just(10 << 30)), max_size=3
)


@settings(max_examples=150)
@given(pushes(), ASKED, st.integers(0, 20))
def test_pushes_with_pulls(
    target: Target, push: tuple[bytes, bytes, pa.RecordBatch], asked: list[tuple[str, int]], following: int
) -> None:
    header = messages.decode(push[0], messages.Push)
    pull = messages.encode(messages.Pull(0, 1, tuple(asked), header))
    survive(target, lambda: target.push_and_pull(pull, push[1] + bytes(8 * following), push[2]))
    exact = push[1] + bytes(8 * sum(count for _, count in asked if count < 10))
    survive(target, lambda: target.push_and_pull(pull, exact, push[2]))


@settings(max_examples=100)
@given(st.sampled_from(["embedding", "wide", "x"]), st.integers(0, 6) | st.just(10 << 30), IDS_OF_ANY_LENGTH)
def test_pulls_of_any_length(target: Target, table: str, count: int, ids: bytes) -> None:
    survive(target, lambda: target.exchange(messages.encode(messages.Pull(0, 1, ((table, count),))), ids))


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


def test_a_message_beyond_the_limit_is_refused_by_name(target: Target) -> None:
    many = u64(range(200_000))
    one = wire.Block("embedding", many, np.ones(len(many) * 4, np.float32))
    encoded = wire.encode_blocks([one])
    before = target.content()
    with pytest.raises(
        pa.ArrowInvalid, match=r"message: \d+ bytes; legal is at most 1048576 \(max_message_mb\)"
    ):
        target.put(push_header(one), encoded.ids.to_pybytes(), encoded.values)
    assert target.content() == before

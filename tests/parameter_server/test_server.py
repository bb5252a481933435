"""Client and Flight servers over real sockets, in one process: two shards behind one client."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight

from parameter_server import messages, wire
from parameter_server.client import ParameterClient
from parameter_server.errors import InvalidRequest, ShardError, ShardUnavailable
from parameter_server.replica import ReplicaTables
from parameter_server.router import shard_of
from parameter_server.server import ShardServer
from parameter_server.shard import PushReply, Shard
from runtime.ports import free_port
from schema.config import ParameterServerConfig, ReplicaRows, ShardConfig, TableConfig
from schema.records import F32
from tests.parameter_server.cases import block, config, gradients, push_header, u64

IDS = u64(range(300))


class Cluster:
    """Two served shards, their configuration and a client."""

    def __init__(self) -> None:
        base = config(shards=2, max_message_mb=1, request_seconds=5.0, retry_seconds=1.0)
        self.shards = [Shard(base, index) for index in range(2)]
        self.servers = [ShardServer(shard, "127.0.0.1", 0) for shard in self.shards]
        places = tuple(ShardConfig(port=server.port, ops_port=1) for server in self.servers)
        self.config: ParameterServerConfig = msgspec.structs.replace(base, shards=places)
        self.client = ParameterClient(self.config)

    def digests(self) -> list[tuple[int, int]]:
        return [shard.digest(name) for shard in self.shards for name in shard.tables]

    def close(self) -> None:
        self.client.close()
        for server in self.servers:
            server.shutdown()


@pytest.fixture(scope="module")
def serving() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(serving: Cluster) -> Cluster:
    """The served cluster, emptied, and with the steps forgotten."""
    for shard, server in zip(serving.shards, serving.servers, strict=True):
        fresh = Shard(shard.config, shard.index)
        server._shard = fresh
    serving.shards = [server._shard for server in serving.servers]
    return serving


def test_pull_and_push_equal_one_big_table(cluster: Cluster) -> None:
    alone = Shard(config(), 0)
    rng = np.random.default_rng(0)
    for step in range(5):
        ids = rng.integers(0, 400, 100, dtype=np.uint64)
        pairs = {"embedding": (ids, gradients(rng, 100)), "wide": (ids[:7], gradients(rng, 7, 9))}
        result = cluster.client.push("a", step, pairs, event_time=step)
        alone.push("a", step, pairs, step)
        assert (result.clocks, result.applied) == ((step + 1,) * 2, (True, True))
    wanted = rng.integers(0, 500, 1000, dtype=np.uint64)
    for table in ("embedding", "wide"):
        assert np.array_equal(cluster.client.pull(table, wanted), alone.pull([(table, wanted)])[0])
        total = sum(cluster.client.digest(shard, table)[1] for shard in range(2)) % 2**64
        assert total == alone.digest(table)[1], "the digest of the parts adds up to that of the whole"


def test_rows_lie_on_the_shard_of_their_bucket(cluster: Cluster) -> None:
    cluster.client.push("a", 0, {"embedding": (IDS, np.ones((300, 4), np.float32))}, 0)
    for index, shard in enumerate(cluster.shards):
        held = np.sort(np.concatenate([part.columns["ids"] for part in shard.saving(None, 1000)]))
        assert np.array_equal(held, IDS[shard_of(IDS, 2) == index])


@pytest.mark.parametrize("ids", [u64([]), u64([5]), u64([5, 5, 5]), u64([2**64 - 1, 0])])
def test_pulls_of_few_or_equal_ids(cluster: Cluster, ids: np.ndarray) -> None:
    pulled = cluster.client.pull("wide", ids)
    assert pulled.shape == (len(ids), 9)
    assert np.array_equal(pulled, Shard(config(), 0).pull([("wide", ids)])[0])


def test_a_pull_larger_than_a_message_is_split(cluster: Cluster) -> None:
    ids = np.arange(120_000, dtype=np.uint64)
    pulled = cluster.client.pull("wide", ids)
    assert pulled.nbytes > 2 << 20
    assert np.array_equal(pulled[::1000], cluster.client.pull("wide", ids[::1000]))


def test_a_repeated_push_is_told_from_a_new_one(cluster: Cluster) -> None:
    pairs = {"embedding": (IDS, np.ones((300, 4), np.float32))}
    assert cluster.client.push("a", 3, pairs, 0).applied == (True, True)
    before = cluster.digests()
    assert cluster.client.push("a", 3, pairs, 0)[:2] == ((1, 1), (False, False))
    assert cluster.digests() == before
    assert cluster.client.shard_state(1).steps == {"a": 3}


PAIRS = {"embedding": (IDS, np.ones((300, 4), np.float32)), "wide": (IDS[:7], np.ones((7, 9), np.float32))}


def test_a_push_and_pull_equals_a_push_and_then_a_pull(cluster: Cluster) -> None:
    alone = Shard(config(), 0)
    rng = np.random.default_rng(0)
    for step in range(5):
        ids = rng.integers(0, 400, 100, dtype=np.uint64)
        mixed = rng.integers(0, 500, 90, dtype=np.uint64)
        by_shard = mixed[np.argsort(shard_of(mixed, 2), kind="stable")][: 30 * (step % 3)]
        wanted = {"embedding": mixed, "wide": by_shard}
        pairs = {"embedding": (ids, gradients(rng, 100)), "wide": (ids[:7], gradients(rng, 7, 9))}
        done, vectors = cluster.client.push_and_pull("a", step, pairs, step, [step], wanted=wanted)
        alone.push("a", step, pairs, step)
        assert (done.clocks, done.applied) == ((step + 1,) * 2, (True, True))
        assert done.epochs == tuple(shard.epoch for shard in cluster.shards)
        for table, ids in wanted.items():
            assert np.array_equal(vectors[table], alone.pull([(table, ids)])[0])
    for shard in range(2):
        assert [t.completed_at.tolist() for t in cluster.client.delta(shard, None).traces] == [
            [step] for step in range(5)
        ]


def test_a_repeated_push_and_pull_pulls_and_pushes_nothing(cluster: Cluster) -> None:
    _, first = cluster.client.push_and_pull("a", 3, PAIRS, 0, [], wanted={"embedding": IDS})
    before = cluster.digests()
    done, again = cluster.client.push_and_pull("a", 3, PAIRS, 0, [], wanted={"embedding": IDS})
    assert done[:2] == ((1, 1), (False, False))
    assert np.array_equal(first["embedding"], again["embedding"])
    assert cluster.digests() == before


@pytest.mark.parametrize("larger", ["the request", "the answer"])
def test_what_one_message_does_not_hold_goes_in_several(cluster: Cluster, larger: str) -> None:
    many = np.arange(60_000 if larger == "the answer" else 110_000, dtype=np.uint64)
    few = many[:80_000]
    pushed_ids = IDS if larger == "the answer" else few
    pairs = {"embedding": (pushed_ids, np.ones((len(pushed_ids), 4), np.float32))}
    wanted = {"wide" if larger == "the answer" else "embedding": many}
    done, vectors = cluster.client.push_and_pull("a", 0, pairs, 0, [], wanted=wanted)
    assert done.applied == (True, True)
    alone = Shard(config(), 0)
    alone.push("a", 0, pairs, 0)
    for table, found in vectors.items():
        assert np.array_equal(found, alone.pull([(table, many)])[0])


def test_an_answer_that_is_lost_after_the_push_is_asked_for_again(cluster: Cluster) -> None:
    pull, lost = cluster.shards[1].pull, iter([True])

    def losing(wanted: Sequence[tuple[str, np.ndarray]]) -> list[F32]:
        if next(lost, False):
            raise flight.FlightUnavailableError("the shard went away")
        return pull(wanted)

    cluster.shards[1].pull = losing  # type: ignore[method-assign]
    done, vectors = cluster.client.push_and_pull("a", 1, PAIRS, 0, [], wanted={"embedding": IDS})
    assert done[:2] == ((1, 1), (True, False)), "once each, whoever was told of it"
    assert np.array_equal(vectors["embedding"], cluster.client.pull("embedding", IDS))


def test_a_shard_that_fails_leaves_the_step_of_the_other_and_both_can_be_asked_again(
    cluster: Cluster,
) -> None:
    push = cluster.shards[0].push

    def broken(*_: object) -> PushReply:
        raise RuntimeError("out of luck")

    cluster.shards[0].push = broken  # type: ignore[method-assign]
    with pytest.raises(ShardError, match="out of luck"):
        cluster.client.push_and_pull("a", 1, PAIRS, 0, [], wanted={"embedding": IDS})
    cluster.shards[0].push = push  # type: ignore[method-assign]
    done, _ = cluster.client.push_and_pull("a", 1, PAIRS, 0, [], wanted={"embedding": IDS})
    assert done[:2] == ((1, 1), (True, False))


def test_every_shard_is_told_of_every_step(cluster: Cluster) -> None:
    one = IDS[shard_of(IDS, 2) == 0][:1]
    cluster.client.push("a", 0, {"embedding": (one, np.ones((1, 4), np.float32))}, 0, [77])
    for shard in range(2):
        delta = cluster.client.delta(shard, None)
        assert dict(delta.steps) == {"a": 0}
        assert [t.completed_at.tolist() for t in delta.traces] == [[77]]
    assert [cluster.client.stats(shard).rows["embedding"] for shard in range(2)] == [1, 0]


def test_a_replica_follows_over_the_network(cluster: Cluster) -> None:
    replica = ReplicaTables(cluster.config)
    rng = np.random.default_rng(1)
    for step in range(4):
        ids = rng.integers(0, 400, 100, dtype=np.uint64)
        cluster.client.push("a", step, {"embedding": (ids, gradients(rng, 100))}, 0)
        cluster.client.evict("embedding", ids[:10])
        deltas = [cluster.client.delta(shard, replica.position(shard)) for shard in range(2)]
        assert [delta.full for delta in deltas] == [step == 0] * 2
        replica.apply(deltas)
        for shard in range(2):
            clock, digest = cluster.client.digest(shard, "embedding")
            assert (replica.position(shard), replica.digest("embedding", shard)) == (
                (cluster.shards[shard].epoch, clock),
                digest,
            )
    assert np.array_equal(replica.pull("embedding", IDS), cluster.client.pull("embedding", IDS))


@pytest.mark.parametrize("form", ["fp16", "int8"])
def test_a_replica_of_packed_rows_follows_over_the_network(form: ReplicaRows) -> None:
    base = config(replica_rows=form, request_seconds=5.0)
    shard = Shard(base, 0)
    server = ShardServer(shard, "127.0.0.1", 0)
    settings = msgspec.structs.replace(base, shards=(ShardConfig(port=server.port, ops_port=1),))
    replica, rng = ReplicaTables(settings), np.random.default_rng(2)
    with ParameterClient(settings) as client:
        for step in range(3):
            client.push("a", step, {"wide": (IDS, gradients(rng, 300, 9))}, 0)
            client.evict("wide", IDS[step : step + 5])
            replica.apply([client.delta(0, replica.position(0))])
            assert replica.digest("wide", 0) == client.digest(0, "wide")[1]
        exact = client.pull("wide", IDS)
    held = replica.pull("wide", IDS)
    assert not np.array_equal(held, exact)
    assert np.abs(held - exact).max() < np.abs(exact).max() / 100
    server.shutdown()


def test_evict_counts_the_rows_of_all_shards(cluster: Cluster) -> None:
    cluster.client.push("a", 0, {"embedding": (IDS, np.ones((300, 4), np.float32))}, 0)
    assert cluster.client.evict("embedding", u64(range(250, 350))) == 50
    assert cluster.client.evict("embedding", u64([])) == 0


def test_dense_versions(cluster: Cluster) -> None:
    client = cluster.client
    payload = np.random.default_rng(0).bytes(300_000)
    assert client.get_dense("model") is None
    assert client.put_dense("model", 4, 40, payload)
    assert not client.put_dense("model", 4, 41, b"late")
    assert client.get_dense("model", 3) == (4, 40, payload)
    assert client.get_dense("model", 4) is None
    assert client.stats(0).dense == {"model": 4}


def test_what_the_client_itself_refuses(cluster: Cluster) -> None:
    ones = np.ones((2, 4), np.float32)
    two = u64([1, 2])
    cases = [
        (lambda c: c.pull("nowhere", two), "table: 'nowhere'; legal are embedding, wide"),
        (lambda c: c.pull("wide", two.astype(np.int64)), r"ids: int64 \(2,\); legal is uint64"),
        (lambda c: c.evict("wide", two.reshape(1, 2)), r"ids: uint64 \(1, 2\); legal is uint64 \(1,\)"),
        (lambda c: c.push("a", 0, {"wide": (two, ones)}, 0), r"gradients: float32 \(2, 4\); .* \(2, 9\)"),
        (lambda c: c.push("a", 0, {"nowhere": (two, ones)}, 0), "table: 'nowhere'"),
    ]
    for call, message in cases:
        with pytest.raises(InvalidRequest, match=message):
            call(cluster.client)
    assert [state.clock for state in (cluster.client.shard_state(s) for s in range(2))] == [0, 0]


def test_a_push_that_is_not_finite_or_too_large_changes_no_row(cluster: Cluster) -> None:
    cluster.client.push("a", 0, {"embedding": (IDS, np.ones((300, 4), np.float32))}, 0)
    before = cluster.digests()
    bad = np.full((300, 4), np.inf, np.float32)
    with pytest.raises(InvalidRequest, match=r"table embedding: gradients: id \d+ has \[inf"):
        cluster.client.push("a", 1, {"embedding": (IDS, bad)}, 0)
    many = np.arange(200_000, dtype=np.uint64)
    with pytest.raises(InvalidRequest, match=r"message: \d+ bytes; legal is at most 1048576"):
        cluster.client.push("a", 1, {"embedding": (many, np.ones((200_000, 4), np.float32))}, 0)
    assert cluster.digests() == before


class Raw:
    """Speaks Flight to shard 0 without the client's own checks."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = flight.connect(f"grpc://127.0.0.1:{cluster.servers[0].port}")
        self._options = flight.FlightCallOptions(timeout=5)

    def push(self, header: bytes, *blocks: wire.Block) -> object:
        encoded = wire.encode_blocks(blocks)
        return self.put(header, encoded.values, encoded.ids)

    def put(self, header: bytes, batch: pa.RecordBatch, ids: pa.Buffer) -> object:
        writer, replies = self._client.do_put(
            flight.FlightDescriptor.for_command(header), batch.schema, self._options
        )
        with writer:
            writer.write_with_metadata(batch, ids)
            writer.done_writing()
            return replies.read()

    def push_and_pull(
        self, block: wire.Block, push: bytes, tables: Sequence[tuple[str, int]], following: int = 0
    ) -> object:
        """A pull of `tables` behind the header `push` and `block`, with `following` ids."""
        encoded = wire.encode_blocks([block], [u64(range(following))])
        head = messages.Pull(0, 2, tuple(tables), messages.decode(push, messages.Push))
        descriptor = flight.FlightDescriptor.for_command(messages.encode(head))
        writer, reader = self._client.do_exchange(descriptor, self._options)
        with writer:
            writer.begin(wire.VALUES)
            writer.write_with_metadata(encoded.values, encoded.ids)
            writer.done_writing()
            return reader.read_chunk()

    def pull(self, header: bytes, ids: pa.Buffer | None, batch: pa.RecordBatch | None = None) -> object:
        writer, reader = self._client.do_exchange(flight.FlightDescriptor.for_command(header), self._options)
        with writer:
            if ids is not None:
                writer.write_metadata(ids)
            if batch is not None:
                writer.begin(batch.schema)
                writer.write_batch(batch)
            writer.done_writing()
            return reader.read_chunk()

    def act(self, name: str, body: bytes) -> object:
        return list(self._client.do_action(flight.Action(name, body), self._options))

    def get(self, ticket: bytes) -> object:
        return self._client.do_get(flight.Ticket(ticket), self._options).read_all()


BLOCK = block("embedding", 2, 8)
PUSH = push_header(BLOCK, shards=2)
PULL = messages.encode(messages.Pull(0, 2, (("embedding", 2),)))
TWO = wire.encode_ids(u64([1, 2]))
STRANGE = pa.RecordBatch.from_pydict({"ids": [1, 2]})


def pushed(*blocks: wire.Block) -> Callable[[Raw], object]:
    """A push of `blocks` whose header agrees with them."""
    return lambda raw: raw.push(push_header(*blocks, shards=2), *blocks)


def pulled(table: str, ids: int) -> Callable[[Raw], object]:
    """A pull of so many ids."""
    header = messages.encode(messages.Pull(0, 2, ((table, ids),)))
    return lambda raw: raw.pull(header, wire.encode_ids(u64(range(ids))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.push(b"junk", BLOCK), "Push: "),
        (lambda r: r.put(PUSH, STRANGE, TWO), "columns: ids int64; legal is values float"),
        (
            lambda r: r.put(PUSH, pa.RecordBatch.from_pydict({"values": [1.0] * 8}), TWO),
            "columns: values double; legal is values float",
        ),
        (lambda r: r.push(PUSH, block("embedding", 2, 7)), "7 values; legal is the 8 that the blocks claim"),
        (lambda r: r.push(PUSH, block("embedding", 3, 8)), "ids: 24 bytes for 2 ids; legal is 8 an id"),
        (
            pushed(block("embedding", 2, 8, np.nan)),
            r"table embedding: gradients: id 0 has \[nan, .*legal is a finite mean square",
        ),
        (pushed(block("embedding", 2, 7)), "7 values for 2 ids"),
        (pushed(block("embedding", 2, 10)), r"gradients: float32 \(2, 5\)"),
        (pushed(block("nowhere", 2, 8)), "table: 'nowhere'"),
        (pushed(block("wide", 1, 9), block("wide", 1, 9)), "table: one occurs twice"),
        (lambda r: r.push(push_header(BLOCK, shard=1, shards=2), BLOCK), "shard: 1 of 2; this .* 0 of 2"),
        (
            lambda r: r.push(push_header(BLOCK, shards=2, completed_at=b"123"), BLOCK),
            "completed_at: 3 bytes",
        ),
        (lambda r: r.pull(b"", TWO), "Pull: "),
        (lambda r: r.pull(PULL, None, STRANGE), "columns: ids; legal is none, since ids are metadata"),
        (lambda r: r.pull(PULL, wire.encode_ids(u64([1]))), "ids: 8 bytes for 2 ids; legal is 8 an id"),
        (pulled("nowhere", 1), "table: 'nowhere'"),
        (lambda r: r.push_and_pull(BLOCK, PUSH, [("nowhere", 1)], 1), "table: 'nowhere'"),
        (lambda r: r.push_and_pull(BLOCK, PUSH, [("wide", 2)], 1), "ids: 24 bytes for 4 ids"),
        (lambda r: r.push_and_pull(BLOCK, PUSH, [("wide", 40_000)], 40_000), "message: 1440000 bytes"),
        (
            lambda r: r.push_and_pull(BLOCK, push_header(BLOCK, shard=1, shards=2), [("wide", 1)], 1),
            "shard: 1 of 2; this .* 0 of 2",
        ),
        (
            lambda r: r.push_and_pull(block("embedding", 2, 10), PUSH, [("wide", 1)], 1),
            "10 values; legal is the 8",
        ),
        (
            lambda r: r.pull(
                messages.encode(messages.Pull(0, 2, (), messages.decode(PUSH, messages.Push))), TWO
            ),
            "columns: none; legal is one batch",
        ),
        (pulled("wide", 40_000), r"message: 1440000 bytes; legal is at most"),
        (pulled("wide", 200_000), r"message: 1600000 bytes; legal is at most"),
        (lambda r: r.pull(messages.encode(messages.Pull(0, 3, (("wide", 2),))), TWO), "shard: 0 of 3"),
        (lambda r: r.act("explode", b""), "action: 'explode'; legal are state, stats"),
        (lambda r: r.act("digest", b"\x80"), "Digest: "),
        (
            lambda r: r.act("evict", messages.encode(messages.Evict(0, 2, "wide", b"12345"))),
            "ids: 5 bytes; legal is a multiple of 8",
        ),
        (lambda r: r.act("put_dense", b"x" * (2 << 20)), "message: 2097152 bytes"),
        (lambda r: r.get(b"junk"), "DeltaSince: "),
    ],
)
def test_a_malformed_request_is_refused_by_name_and_changes_nothing(
    cluster: Cluster, call: object, message: str
) -> None:
    cluster.client.push("a", 0, {"embedding": (IDS, np.ones((300, 4), np.float32))}, 0)
    before = cluster.digests()
    with pytest.raises(pa.ArrowInvalid, match=message):
        call(Raw(cluster))  # type: ignore[operator]
    assert cluster.digests() == before
    assert cluster.client.push("a", 1, {}, 0).applied == (True, True), "the server goes on"


def test_a_pull_without_columns_is_refused(cluster: Cluster) -> None:
    with pytest.raises(pa.ArrowException):
        Raw(cluster).pull(PULL, None)
    assert cluster.client.pull("embedding", IDS).shape == (300, 4)


def test_a_fault_of_the_shard_is_told_from_a_bad_request(cluster: Cluster) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of luck")

    cluster.shards[0].state = broken  # type: ignore[method-assign]
    with pytest.raises(ShardError, match="out of luck"):
        cluster.client.shard_state(0)


def test_a_client_that_expects_another_width_says_so(cluster: Cluster) -> None:
    tables = (TableConfig(name="embedding", dim=5),)
    with ParameterClient(msgspec.structs.replace(cluster.config, tables=tables)) as client:
        with pytest.raises(ShardError, match=r"legal is 5 an id: the configurations differ"):
            client.pull("embedding", IDS)
        with pytest.raises(ShardError, match=r"ids of table embedding; legal is 5 an id"):
            client.push_and_pull("a", 0, {}, 0, [], wanted={"embedding": IDS})
        with pytest.raises(
            InvalidRequest, match=r"gradients: float32 \(\d+, 5\); legal is float32 \(\d+, 4\)"
        ):
            client.push("a", 0, {"embedding": (IDS, np.ones((300, 5), np.float32))}, 0)


def test_a_shard_that_is_away_is_named_after_the_retries() -> None:
    port = free_port()
    away = config(shards=1, retry_seconds=0.3, request_seconds=0.2)
    settings = msgspec.structs.replace(away, shards=(ShardConfig(port=port, ops_port=1),))
    with (
        ParameterClient(settings) as client,
        pytest.raises(ShardUnavailable, match=f"shard at 127.0.0.1:{port}"),
    ):
        client.pull("embedding", IDS)


def test_a_shard_that_does_not_answer_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = ShardConfig(port=silent.getsockname()[1], ops_port=1)
        settings = config(shards=1, retry_seconds=0.3, request_seconds=0.2)
        settings = msgspec.structs.replace(settings, shards=(place,))
        with ParameterClient(settings) as client:
            for call in (
                lambda: client.pull("embedding", IDS),
                lambda: client.push("a", 0, {}, 0),
                lambda: client.push_and_pull("a", 0, {}, 0, [], wanted={"embedding": IDS}),
                lambda: client.delta(0, None),
                lambda: client.health(0),
            ):
                with pytest.raises(ShardUnavailable, match=f"shard at 127.0.0.1:{place.port}"):
                    call()


def test_two_servers_cannot_share_a_port(cluster: Cluster) -> None:
    with pytest.raises(pa.ArrowException):
        ShardServer(cluster.shards[0], "127.0.0.1", cluster.servers[0].port)


def test_importing_the_client_does_not_load_the_compiler() -> None:
    check = "import sys, parameter_server.client; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=60).returncode == 0

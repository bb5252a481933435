"""Messages whose heads claim gigabytes that they do not have: refused by name, at the cost of what was sent."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import flight, ipc

from parameter_server import messages, wire
from parameter_server.server import ShardServer
from parameter_server.shard import Shard
from tests.parameter_server.cases import config, u64

IDS = 7919
GIGABYTES = 10 << 30
MEBIBYTE = 1 << 20
PUSH = messages.encode(messages.Push(0, 1, "a", 1, 0, b""))
PULL = messages.encode(messages.Pull(0, 1))
BATCH = wire.encode_blocks(
    [
        wire.Block(
            "embedding",
            np.random.default_rng(0).integers(0, 2**63, IDS, dtype=np.uint64),
            np.ones(4 * IDS, np.float32),
        )
    ]
)


class Liar:
    """Stands between a client and a server, and writes another number over one that the client sends."""

    def __init__(self, port: int, true: int, claimed: int) -> None:
        self._to = port
        self._true, self._claimed = struct.pack("<q", true), struct.pack("<q", claimed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lies = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                for pair in ((client, server, self._altered), (server, client, bytes)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _altered(self, data: bytes) -> bytes:
        self.lies += data.count(self._true)
        return data.replace(self._true, self._claimed)

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, altered: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(MEBIBYTE):
                target.sendall(altered(data))
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        source.close()


class Target:
    """A served shard with some rows."""

    def __init__(self) -> None:
        self.shard = Shard(config(max_message_mb=1), 0)
        self.shard.push("a", 0, {"embedding": (u64(range(50)), np.ones((50, 4), np.float32))}, 0)
        self.server = ShardServer(self.shard, "127.0.0.1", 0)

    def content(self) -> object:
        digests = [self.shard.digest(name) for name in self.shard.tables]
        return digests, self.shard.state(), self.shard.row_counts()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    one = Target()
    yield one
    one.server.shutdown()


def put(client: flight.FlightClient, options: flight.FlightCallOptions, header: bytes = PUSH) -> None:
    writer, replies = client.do_put(flight.FlightDescriptor.for_command(header), BATCH.schema, options)
    with writer:
        writer.write_batch(BATCH)
        writer.done_writing()
        replies.read()


def exchange(client: flight.FlightClient, options: flight.FlightCallOptions) -> None:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(PULL), options)
    with writer:
        writer.begin(BATCH.schema)
        writer.write_batch(BATCH)
        writer.done_writing()
        reader.read_chunk()


def peak() -> int:
    """The most memory that this process, and so the shard in it, has had in use since `bounded` began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@contextmanager
def bounded(target: Target) -> Iterator[None]:
    """What happens takes little memory and changes nothing."""
    before = target.content()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start = peak()
    yield
    assert peak() - start < 64 * MEBIBYTE
    assert target.content() == before


class Claim(NamedTuple):
    """A number of a message, what is written over it, and what the refusal says."""

    true: int
    claimed: int
    says: str
    compression: str | None = None


Call = Callable[[flight.FlightClient, flight.FlightCallOptions], None]
PLAIN = {
    "ids in a list": Claim(IDS, GIGABYTES, r"message: \d{11} bytes; legal is at most 1048576"),
    "bytes of ids": Claim(8 * IDS, GIGABYTES, "columns: .*10737418240 bytes, got 190072"),
    "bytes of values": Claim(16 * IDS, GIGABYTES, "columns: .*10737418240 bytes, got 126704"),
    "bytes of offsets": Claim(16, GIGABYTES, "columns: .*10737418240 bytes"),
    "more rows than there can be": Claim(1, 2**62, "columns: "),
    "less than nothing": Claim(8 * IDS, -8, "columns: Negative length"),
}
COMPRESSED = {
    "bytes once decompressed": Claim(8 * IDS, GIGABYTES, "columns: .*ZSTD", "zstd"),
    "more of them than there can be": Claim(8 * IDS, 2**62, "columns: malloc of size 46116860184", "zstd"),
    "bytes once decompressed, in another way": Claim(8 * IDS, GIGABYTES, "expected 10737418240", "lz4"),
}
CASES = [(call, claim) for call in (put, exchange) for claim in PLAIN.values()]
CASES += [(put, claim) for claim in COMPRESSED.values()]
NAMES = [f"{call.__name__}: {name}" for call in (put, exchange) for name in PLAIN]


@pytest.mark.parametrize(("call", "claim"), CASES, ids=[*NAMES, *COMPRESSED])
def test_a_message_that_claims_gigabytes_is_refused_at_the_cost_of_what_it_has(
    target: Target, call: Call, claim: Claim
) -> None:
    writing = ipc.IpcWriteOptions(compression=claim.compression)
    options = flight.FlightCallOptions(timeout=20, write_options=writing)
    with closing(Liar(target.server.port, claim.true, claim.claimed)) as liar:
        client = flight.connect(f"grpc://127.0.0.1:{liar.port}")
        with bounded(target), pytest.raises(pa.ArrowInvalid, match=claim.says):
            call(client, options)
        assert liar.lies > 0
        client.close()
    with closing(flight.connect(f"grpc://127.0.0.1:{target.server.port}")) as honest:
        call(honest, options)


HEADS = {
    "a field of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "a text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a map of 4 billion": b"\xdf\xff\xff\xff\xff",
}


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_claims_gigabytes_is_refused(target: Target, head: str) -> None:
    client = flight.connect(f"grpc://127.0.0.1:{target.server.port}")
    options = flight.FlightCallOptions(timeout=20)
    whole = msgspec.msgpack.decode(PUSH)
    for field in whole:
        rest = {name: value for name, value in whole.items() if name != field}
        header = bytes([0x80 | len(whole)]) + msgspec.msgpack.encode(rest)[1:]
        with bounded(target), pytest.raises(pa.ArrowInvalid, match="Push: "):
            put(client, options, header + msgspec.msgpack.encode(field) + HEADS[head])
    with bounded(target), pytest.raises(pa.ArrowInvalid, match="Evict: "):
        list(client.do_action(flight.Action("evict", HEADS[head]), options))
    client.close()

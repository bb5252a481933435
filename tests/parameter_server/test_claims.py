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
from tests.parameter_server.cases import block, config, push_header, u64

IDS = 7919
VALUES = 4 * IDS
GIGABYTES = 10 << 30
MEBIBYTE = 1 << 20
BLOCK = block("embedding", IDS, VALUES)
ENCODED = wire.encode_blocks([BLOCK])
PUSH = push_header(BLOCK)


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
    writer, replies = client.do_put(flight.FlightDescriptor.for_command(header), wire.VALUES, options)
    with writer:
        writer.write_with_metadata(ENCODED.values, ENCODED.ids)
        writer.done_writing()
        replies.read()


def exchange(client: flight.FlightClient, options: flight.FlightCallOptions, header: bytes) -> None:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(header), options)
    with writer:
        writer.write_metadata(ENCODED.ids)
        writer.done_writing()
        reader.read_chunk()


def push_and_pull(client: flight.FlightClient, options: flight.FlightCallOptions, header: bytes) -> None:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(header), options)
    with writer:
        writer.begin(wire.VALUES)
        writer.write_with_metadata(ENCODED.values, ENCODED.ids)
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


PLAIN = {
    "values in a column": Claim(VALUES, GIGABYTES, "columns: .*"),
    "bytes of values": Claim(4 * VALUES, GIGABYTES, "columns: .*10737418240 bytes, got 126704"),
    "less than nothing": Claim(4 * VALUES, -8, "columns: Negative length"),
}
COMPRESSED = {
    "bytes once decompressed": Claim(4 * VALUES, GIGABYTES, "columns: .*ZSTD", "zstd"),
    "more of them than there can be": Claim(4 * VALUES, 2**62, "columns: malloc of size 46116860184", "zstd"),
    "bytes once decompressed, in another way": Claim(4 * VALUES, GIGABYTES, "expected 10737418240", "lz4"),
}
CASES = PLAIN | COMPRESSED


@pytest.mark.parametrize("claim", CASES.values(), ids=CASES)
def test_a_message_that_claims_gigabytes_is_refused_at_the_cost_of_what_it_has(
    target: Target, claim: Claim
) -> None:
    writing = ipc.IpcWriteOptions(compression=claim.compression)
    options = flight.FlightCallOptions(timeout=20, write_options=writing)
    with closing(Liar(target.server.port, claim.true, claim.claimed)) as liar:
        client = flight.connect(f"grpc://127.0.0.1:{liar.port}")
        with bounded(target), pytest.raises(pa.ArrowInvalid, match=claim.says):
            put(client, options)
        assert liar.lies > 0
        client.close()
    with closing(flight.connect(f"grpc://127.0.0.1:{target.server.port}")) as honest:
        put(honest, options)


@pytest.mark.parametrize("claimed", [10 << 27, 2**62])
def test_a_head_with_more_ids_than_follow_is_refused(target: Target, claimed: int) -> None:
    client = flight.connect(f"grpc://127.0.0.1:{target.server.port}")
    options = flight.FlightCallOptions(timeout=20)
    says = rf"ids: \d+ bytes for {claimed} ids; legal is 8 an id"
    with bounded(target), pytest.raises(pa.ArrowInvalid, match=says):
        exchange(client, options, messages.encode(messages.Pull(0, 1, (("embedding", claimed),))))
    for extent, message in ((("embedding", claimed, 4), says), (("embedding", IDS, claimed), str(claimed))):
        push = messages.Push(0, 1, "a", 1, 0, b"", (extent,))
        with bounded(target), pytest.raises(pa.ArrowInvalid, match=message):
            put(client, options, messages.encode(push))
        with bounded(target), pytest.raises(pa.ArrowInvalid, match=message):
            push_and_pull(client, options, messages.encode(messages.Pull(0, 1, (), push)))
    push = messages.Push(0, 1, "a", 1, 0, b"", (("embedding", IDS, VALUES),))
    says = rf"ids: \d+ bytes for {IDS + claimed} ids"
    header = messages.encode(messages.Pull(0, 1, (("embedding", claimed),), push))
    with bounded(target), pytest.raises(pa.ArrowInvalid, match=says):
        push_and_pull(client, options, header)
    client.close()


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

"""What the network may do to a request, over real sockets, and the one error that comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest

from runtime.ports import free_port
from simulation import connections as module
from simulation.connections import Answer, Connections
from simulation.errors import Unreached

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _post(serve: Serve, times: int = 1) -> list[Answer]:
    """The answers of a server that has `serve` for each connection."""
    serving: list[asyncio.Task[None]] = []

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(served(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    headers = {"content-type": "application/json", "x-api-key": "k"}
    try:
        async with server, Connections(2) as http:
            return [await http.post(f"http://127.0.0.1:{port}/v1/feed", b"{}", headers) for _ in range(times)]
    finally:
        # or their sockets would outlive the loop
        await asyncio.gather(*serving, return_exceptions=True)


def _answering(answer: bytes, heard: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if heard is not None:
                    heard.append(head + await reader.readexactly(2))
                writer.write(answer)
                await writer.drain()

    return serve


async def _closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Is done at once."""


async def _halfway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    await writer.drain()


async def _silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("status", [200, 202, 307, 422, 503])
def test_an_answer_of_any_status_is_an_answer(status: int) -> None:
    heard: list[bytes] = []
    answer = b"HTTP/1.1 %d X\r\nlocation: /x\r\ncontent-length: 3\r\n\r\nyes" % status
    assert asyncio.run(_post(_answering(answer, heard), times=3)) == 3 * [Answer(status, b"yes")]
    assert len(heard) == 3
    assert heard[0].startswith(b"POST /v1/feed HTTP/1.1\r\n")
    assert b"x-api-key: k\r\n" in heard[0].lower()
    assert heard[0].endswith(b"\r\n\r\n{}")


BROKEN: dict[str, Serve] = {
    "closed": _closing,
    "closed halfway": _halfway,
    "not HTTP": _answering(b"what?\r\n\r\n"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_connection_is_unreached(case: str) -> None:
    with pytest.raises(Unreached, match=r"http://127\.0\.0\.1:\d+/v1/feed"):
        asyncio.run(_post(BROKEN[case]))


def test_silence_is_unreached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT", aiohttp.ClientTimeout(total=0.1))
    with pytest.raises(Unreached, match="Timeout"):
        asyncio.run(_post(_silent))


def test_nobody_there_is_unreached() -> None:
    async def post() -> None:
        async with Connections(1) as http:
            await http.post(f"http://127.0.0.1:{free_port()}/v1/feed", b"{}", {})

    with pytest.raises(Unreached, match="Connect"):
        asyncio.run(post())

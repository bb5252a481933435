"""The sockets to the replicas, and the one place where what a connection may suffer becomes our error.

aiohttp, since a request takes httpx several times as long, and longer with every open connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

import aiohttp

from simulation.errors import Unreached

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0, connect=2.0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a request."""

    status: int
    body: bytes


class Http(Protocol):
    """What posts to replicas."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to `body`; `Unreached` where none came."""


class Connections:
    """A pool of kept-alive connections, `most` at once; an asynchronous context manager."""

    def __init__(self, most: int) -> None:
        # made where there is a loop; cookies are nobody's here
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=most),
            timeout=_TIMEOUT,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to `body`.

        Raises:
            Unreached: no whole answer came within 5 s, or no connection within 2 s.
        """
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return Answer(answer.status, await answer.read())
        except (TimeoutError, aiohttp.ClientError) as error:
            raise Unreached(f"{url}: {type(error).__name__} {error}") from error

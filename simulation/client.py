"""Posts to the serving replicas over HTTP, again and again until one answers. Knows no user and no item."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec

from simulation.connections import Http
from simulation.errors import Rejected, Unreached

_log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS: Final = 0.1
_LONGEST_WAIT_SECONDS: Final = 2.0
# statuses below 500 that another try may change: timeout, too early, too many requests
_PASSING: Final = frozenset({408, 425, 429})

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

Sleep = Callable[[float], Awaitable[None]]


class ReplicaClient:
    """A client of all replicas: it stays with one until that one fails, and then tries the next.

    Args:
        http: posts; its timeouts bound each try.
        urls: the replicas, such as "http://127.0.0.1:18080".
        sleep: waits between tries, 0.1 s at first, twice as long each time up to 2 s.
        headers: sent with every request, such as the API key.

    Attributes:
        errors: how many tries failed, for whatever reason.
    """

    def __init__(
        self,
        http: Http,
        urls: Sequence[str],
        sleep: Sleep = asyncio.sleep,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        self.errors = 0
        self._headers = {"content-type": "application/json", **headers}
        self._http = http
        self._urls = urls
        self._sleep = sleep
        self._at = 0

    async def post(
        self, path: str, body: Any, keep_trying: Callable[[], bool] = lambda: True
    ) -> bytes | None:
        """The answer to `body` (sent as JSON), or None where `keep_trying` said no after a failure.

        Raises:
            Rejected: the replica refuses it for good.
        """
        content = msgspec.json.encode(body)
        wait = _FIRST_WAIT_SECONDS
        while True:
            answer = await self._try(path, content)
            if answer is not None:
                return answer
            if not keep_trying():
                return None
            await self._sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    async def _try(self, path: str, content: bytes) -> bytes | None:
        url = self._urls[self._at % len(self._urls)] + path
        try:
            answer = await self._http.post(url, content, self._headers)
        except Unreached as error:
            self._failed(url, str(error))
            return None
        status = answer.status
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own classes
            return answer.body
        if 400 <= status < 500 and status not in _PASSING:  # noqa: PLR2004
            self.errors += 1
            raise Rejected(f"POST {url}: {status} {answer.body.decode(errors='replace')[:500]}")
        self._failed(url, str(status))
        return None

    def _failed(self, url: str, why: str) -> None:
        self.errors += 1
        self._at += 1
        _log.debug("POST %s: %s", url, why)

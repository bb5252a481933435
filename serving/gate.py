"""What stands before the API: the key, the size of a request, and how many are worked on at once.

Pure ASGI, so that a request which is not let in costs next to nothing. Knows no endpoint but the prefix /v1/.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping
from typing import Final, NamedTuple

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.logs import about
from runtime.ops import to_json

MAX_BODY: Final = 1 << 20
BODY_SECONDS: Final = 10.0
"""How long a body may take to come: whoever sends it more slowly keeps others out meanwhile."""
KEY_HEADER: Final = "X-API-Key"
CALL_HEADER: Final = "X-Request-ID"
"""What a caller, or the balancer before us, names a call by; our logs name it so, too."""
_CALL_LENGTH: Final = 100

_UNAUTHORIZED: Final = 401
_TOO_SLOW: Final = 408
_TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_GUARDED: Final = "/v1/"
_REFUSED: Final = Counter("headwater_requests_refused", "Requests that were not let in.", ["status"])


class _Refusal(NamedTuple):
    status: int
    why: str


_LARGE: Final = _Refusal(_TOO_LARGE, f"the body is larger than {MAX_BODY} bytes")


class Gate:
    """Lets requests for /v1/ through to `app`: with the right key, of at most MAX_BODY, not too many at once.

    Answers 401, 408, 413 or 429 itself, with a JSON object whose `detail` says why.

    Args:
        app: what is behind.
        api_key: what X-API-Key must be; None for no key.
        max_requests: how many may be under way.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_requests: int) -> None:
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._max_requests = max_requests
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] != "http" or not scope["path"].startswith(_GUARDED):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(KEY_HEADER.lower().encode(), b"")
        if self._key is not None and not hmac.compare_digest(given, self._key):
            await _refuse(send, _UNAUTHORIZED, f"{KEY_HEADER} is missing or wrong")
        elif self._under_way >= self._max_requests:
            why = (
                f"{self._max_requests} requests are under way (serving.max_requests); come again in a moment"
            )
            await _refuse(send, _TOO_MANY, why)
        else:
            await self._let_in(scope, receive, send, headers)

    async def _let_in(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]
    ) -> None:
        length, call = headers.get(b"content-length"), headers.get(CALL_HEADER.lower().encode())
        if length is not None and length.isdigit() and int(length) > MAX_BODY:
            await _refuse(send, *_LARGE)
            return
        self._under_way += 1
        try:
            body = await _whole(receive)
            if isinstance(body, _Refusal):
                await _refuse(send, *body)
            elif call is None:
                await self._app(scope, again(body, receive), send)
            else:
                with about(call=call[:_CALL_LENGTH].decode(errors="replace")):
                    await self._app(scope, again(body, receive), send)
        finally:
            self._under_way -= 1


async def _whole(receive: Receive) -> bytes | _Refusal:
    """The body, or why it is not waited for. A client that leaves sends an end of its own."""
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY:
                    return _LARGE
                parts.append(part)
                more = message["type"] == "http.request" and message.get("more_body", False)
    except TimeoutError:
        return _Refusal(_TOO_SLOW, f"the body did not come within {BODY_SECONDS:g} s")
    return b"".join(parts)


def again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body that has been read, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read


async def _refuse(send: Send, status: int, why: str) -> None:
    _REFUSED.labels(str(status)).inc()
    headers = [(b"content-type", b"application/json")]
    if status == _TOO_MANY:
        headers.append((b"retry-after", b"1"))
    if status == _TOO_SLOW:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": to_json({"detail": why})})

"""What stands before the API: the key, the size of a request, and how many are worked on at once.

Pure ASGI, so that a request which is not let in costs next to nothing. Knows no endpoint but the prefix /v1/.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.logs import about
from runtime.ops import to_json

MAX_BODY: Final = 1 << 20
KEY_HEADER: Final = "X-API-Key"
CALL_HEADER: Final = "X-Request-ID"
"""What a caller, or the balancer before us, names a call by; our logs name it so, too."""
_CALL_LENGTH: Final = 100

_UNAUTHORIZED: Final = 401
_TOO_LARGE: Final = 413
_TOO_MANY: Final = 429
_GUARDED: Final = "/v1/"
_REFUSED: Final = Counter("headwater_requests_refused", "Requests that were not let in.", ["status"])


class Gate:
    """Lets requests for /v1/ through to `app`: with the right key, of at most MAX_BODY, not too many at once.

    Answers 401, 413 or 429 itself, with a JSON object whose `detail` says why.

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
        too_large = f"the body is larger than {MAX_BODY} bytes"
        if length is not None and length.isdigit() and int(length) > MAX_BODY:
            await _refuse(send, _TOO_LARGE, too_large)
            return
        self._under_way += 1
        try:
            body = await _whole(receive)
            if body is None:
                await _refuse(send, _TOO_LARGE, too_large)
            elif call is None:
                await self._app(scope, again(body, receive), send)
            else:
                with about(call=call[:_CALL_LENGTH].decode(errors="replace")):
                    await self._app(scope, again(body, receive), send)
        finally:
            self._under_way -= 1


async def _whole(receive: Receive) -> bytes | None:
    """The body, None once it is too large. A client that leaves sends an end of its own."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
        more = message["type"] == "http.request" and message.get("more_body", False)
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
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": to_json({"detail": why})})

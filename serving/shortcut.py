"""The short way of a feed: from the body of a POST to its answer, past the framework.

Takes only what is plainly right. Whatever else comes goes on to the framework, which says what is wrong with
it, and whose description of the API holds for both ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from serving import wire
from serving.feed import Feed, FeedMaker, Made, NoCandidates
from serving.gate import again

_PATH: Final = "/v1/feed"
_JSON: Final = (b"content-type", b"application/json")


class Shortcut:
    """Answers sound requests for feeds, and passes everything else on to `app`.

    Stands behind `Gate`, which gives a body whole. Feeds are made in the loop's own thread, one after the
    other: to hand one to another thread and back takes a tenth of the time that it takes. Between two of
    them the loop lets others in, so that the gate knows how many wait.

    Args:
        app: the framework.
        feeds: makes feeds.
        size: how many items a feed has unless a request says otherwise, and at most.
        encode: the answer that tells of a feed.
    """

    def __init__(self, app: ASGIApp, feeds: FeedMaker, size: int, encode: Callable[[Feed], bytes]) -> None:
        self._app = app
        self._feeds = feeds
        self._size = size
        self._encode = encode
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if (
            scope["type"] != "http"
            or scope["path"] != _PATH
            or scope["method"] != "POST"
            or _JSON not in scope["headers"]
        ):
            await self._app(scope, receive, send)
            return
        body: bytes = (await receive())["body"]
        async with self._turn:
            made = self._made(body)
            if made is not None:
                answer = self._encode(made.feed)
                length = (b"content-length", b"%d" % len(answer))
                await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length]})
                await send({"type": "http.response.body", "body": answer})
                try:
                    # the loop writes at the end of its turn: what is left need not keep the client waiting
                    await asyncio.sleep(0)
                finally:
                    self._feeds.note(made)
                return
        await self._app(scope, again(body, receive), send)

    def _made(self, body: bytes) -> Made | None:
        """The feed that is asked for, None where that is for the framework to answer."""
        try:
            request = wire.FeedRequest.model_validate_json(body)
            size = self._size if request.size is None else request.size
            return self._feeds.make(request.user_id, request.surface, size) if size <= self._size else None
        except (ValidationError, NoCandidates):
            return None

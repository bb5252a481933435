"""The HTTP face of a replica. Endpoints are plain functions: they compute, so they run in the thread pool.

Only probes are answered in the loop: no thread may be free for a while, and they must not wait for one.
A sound request for a feed does not come that far: `serving.shortcut` answers it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.ops import to_json
from schema.codec import FEATURE_LOGS
from schema.errors import InvalidMessage
from schema.ids import VALUE_LIMIT
from schema.records import FeatureLog, Profile
from serving import wire
from serving.audit import KEPT, SHARE
from serving.feed import NoCandidates
from serving.gate import Gate
from serving.replica import Replica
from serving.schedule import Change
from serving.shortcut import Shortcut
from serving.sync import RoundError

_ACCEPTED: Final = 202
_INVALID: Final = 422
_UNAVAILABLE: Final = 503
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_EXACT: Final = {2.0**63: (1 << 63) - 1, -(2.0**63): -(1 << 63)}
_JSON: Final = "application/json"
_ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": wire.Refused, "description": "The body cannot be read as JSON."},
    401: {"model": wire.Refused, "description": "The header X-API-Key is missing or wrong."},
    408: {"model": wire.Refused, "description": "The body did not come in time."},
    413: {"model": wire.Refused, "description": "The body is too large."},
    429: {"model": wire.Refused, "description": "Too many requests at once; come again in a moment."},
    _INVALID: {"model": wire.Problems, "description": "Refused; `detail` names each field that is wrong."},
    _UNAVAILABLE: {"model": wire.Unavailable, "description": "Not now; `detail` says why."},
}
_OTHERS: Final[dict[int | str, dict[str, Any]]] = {
    _CONFLICT: {"model": wire.Refused, "description": "No feature log of what is configured here."},
}
_MISSING: Final[dict[int | str, dict[str, Any]]] = {
    _NOT_FOUND: {"model": wire.Refused, "description": "Not kept; `detail` says what is."},
}


def create_app(replica: Replica) -> FastAPI:
    """The application; it starts `replica` when it starts, and stops it when it stops."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        replica.start()
        yield
        await run_in_threadpool(replica.stop)

    app = FastAPI(title="Headwater serving replica", lifespan=lifespan)
    serving = replica.config.serving
    tasks = [task.name for task in replica.config.tasks]
    app.add_middleware(
        Shortcut, feeds=replica.feeds, size=serving.feed_size, encode=lambda feed: wire.feed_json(feed, tasks)
    )
    app.add_middleware(Gate, api_key=serving.api_key, max_requests=serving.max_requests)
    app.exception_handler(RequestValidationError)(_invalid)
    api, ops = _Api(replica), _Ops(replica)
    taken: dict[str, Any] = {"methods": ["POST"], "status_code": _ACCEPTED, "responses": _ERRORS}
    app.add_api_route(
        "/v1/feed", api.feed, methods=["POST"], response_model=wire.FeedResponse, responses=_ERRORS
    )
    app.add_api_route("/v1/actions", api.actions, **taken)
    app.add_api_route("/v1/items", api.items, **taken)
    app.add_api_route("/v1/users", api.users, **taken)
    app.add_api_route("/v1/items/{item_id}", api.item, methods=["GET"], responses=_ERRORS)
    app.add_api_route("/v1/explain/{request_id}", api.explain, methods=["GET"], responses=_ERRORS | _MISSING)
    app.add_api_route(
        "/v1/explain",
        api.explain_log,
        methods=["POST"],
        response_model=wire.Explanation,
        responses=_ERRORS | _OTHERS,
    )
    app.add_api_route("/v1/sync", api.sync, methods=["POST"], responses=_ERRORS)
    app.add_api_route("/v1/sync/settings", api.sync_settings, methods=["POST"], responses=_ERRORS)
    routes: dict[str, Callable[..., Response | Awaitable[Response]]] = {
        "/healthz": ops.healthz,
        "/readyz": ops.readyz,
        "/metrics": ops.metrics,
        "/report/replica": ops.report,
        "/report/freshness": ops.freshness,
        "/report/digests": ops.digests,
    }
    refused: dict[int | str, dict[str, Any]] = {_INVALID: _ERRORS[_INVALID]}
    for path, endpoint in routes.items():
        app.add_api_route(path, endpoint, methods=["GET"], response_class=Response, responses=refused)
    _document(app, serving.feed_size)
    return app


def _document(app: FastAPI, feed_size: int) -> None:
    """Have the OpenAPI description name this deployment's largest feed, and bounds of 64 bits exactly."""
    described = app.openapi()
    described["components"]["schemas"]["FeedRequest"]["properties"]["size"]["anyOf"][0]["maximum"] = feed_size
    app.openapi_schema = _exact(described)


def _exact(value: Any) -> Any:
    """`value` with the bounds of 64-bit integers put right, of which the framework makes doubles."""
    if isinstance(value, dict):
        return {key: _exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_exact(inner) for inner in value]
    return _EXACT.get(value, value) if isinstance(value, float) else value


class _Api:
    """What clients of the recommender call."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._tasks = [task.name for task in replica.config.tasks]
        self._size = replica.config.serving.feed_size
        slots = replica.config.features.slots
        self._item_slots = [slot.name for slot in slots if slot.source.startswith("item.")]

    def feed(self, request: wire.FeedRequest) -> Response:
        """The items to show to a user now."""
        size = self._size if request.size is None else request.size
        if size > self._size:
            raise HTTPException(
                _INVALID, [_problem("size", f"{size}; legal is at most serving.feed_size, {self._size}")]
            )
        try:
            feed = self._replica.feeds.feed(request.user_id, request.surface, size)
        except NoCandidates as error:
            raise HTTPException(_UNAVAILABLE, str(error)) from error
        # as it is: to have the framework check what was made here would take as long as ranking half a feed
        return Response(wire.feed_json(feed, self._tasks), media_type=_JSON)

    def actions(self, request: wire.ActionsRequest) -> wire.Accepted:
        """What a user did to the items of a feed; to be learned from within seconds."""
        if not self._replica.outboxes.actions.offer(request.record()):
            raise _full()
        return wire.Accepted(accepted=len(request.actions))

    def items(self, request: wire.ItemsRequest) -> wire.Accepted:
        """What is known of some items. One that was not known is a candidate within seconds."""
        now = self._replica.clock()
        return self._announce(item.record(now) for item in request.items)

    def item(self, item_id: wire.Id) -> wire.ItemSlots:
        """What an item's slots hold; of an item without a profile, its id alone."""
        encoded = self._replica.intake.catalogue.item(item_id)
        slots = {
            name: [i % VALUE_LIMIT for i in encoded.slot(index)]
            for index, name in enumerate(self._item_slots)
        }
        return wire.ItemSlots(item_id=item_id, slots=slots)

    def explain(self, request_id: wire.Name) -> wire.Explanation:
        """What each slot of a sampled request held, what scored it, and its scores computed again."""
        found = self._replica.audit.explain(request_id)
        if found is None:
            raise HTTPException(
                _NOT_FOUND,
                f"{request_id}: its parameters are not kept here; one request in {1 / SHARE:g} is, of the "
                f"last {KEPT} such ones",
            )
        return wire.Explanation.model_validate(found, strict=False)

    def explain_log(self, request: wire.LogToExplain) -> wire.Explanation:
        """What each slot of a logged request held, and its scores again if what scored it is served still."""
        try:
            found = self._replica.audit.explain_log(_log_in(request.envelope), self._replica.parameters)
        except ValueError as error:
            raise HTTPException(_CONFLICT, f"envelope: {error}") from error
        return wire.Explanation.model_validate(found, strict=False)

    def users(self, request: wire.UsersRequest) -> wire.Accepted:
        """What is known of some users."""
        now = self._replica.clock()
        return self._announce(user.record(now) for user in request.users)

    def sync(self) -> wire.ModelInfo:
        """Fetch and apply a round of parameters now, and tell which are served then."""
        try:
            self._replica.sync.run_round()
        except RoundError as error:
            raise HTTPException(_UNAVAILABLE, str(error)) from error
        version = self._replica.parameters.version
        return wire.ModelInfo(dense=version.dense, shards=[list(at) for at in version.shards])

    def sync_settings(self, request: wire.SyncSettings) -> wire.SyncSettings:
        """Pause or resume the rounds, or change how often they are, until the next restart."""
        change = Change(request.paused, request.sparse_seconds, request.dense_seconds)
        return wire.SyncSettings(**asdict(self._replica.sync.change(change)))

    def _announce(self, profiles: Iterable[Profile]) -> wire.Accepted:
        accepted = 0
        for profile in profiles:
            if not self._replica.outboxes.profiles.offer(profile):
                raise _full()
            accepted += 1
        return wire.Accepted(accepted=accepted)


class _Ops:
    """What operators and their tools call."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def healthz(self) -> Response:
        """Whether the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self) -> Response:
        """Whether feeds should be asked for here; if not, why."""
        because = self._replica.unready()
        if because is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"not ready: {because}\n", _UNAVAILABLE)

    def metrics(self) -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    def report(self) -> Response:
        """The replica in numbers."""
        return _json(self._replica.report())

    def freshness(self, since: Annotated[int, Query(ge=0, le=(1 << 53) - 1)] = 0) -> Response:
        """Freshness in seconds of the samples that were completed at `since` (Unix ms) or later."""
        return _json({"since": since, **asdict(self._replica.freshness.summary(since))})

    def digests(self) -> Response:
        """For each shard and table, the digest of the rows served, to be compared with the shard's own."""
        digests = self._replica.parameters.digests()
        return _json([{**asdict(d), "digest": f"{d.digest:016x}"} for d in digests])


def _log_in(envelope: str) -> FeatureLog:
    """The one feature log of an envelope in base 64.

    Raises:
        ValueError: it is none.
    """
    try:
        records = FEATURE_LOGS.decode(base64.b64decode(envelope, validate=True))
    except InvalidMessage as error:
        raise ValueError(str(error)) from error
    log = records[0] if len(records) == 1 else None
    if not isinstance(log, FeatureLog):
        raise ValueError(f"{len(records)} records; legal is one feature log")  # noqa: TRY004 - of the caller's
    problem = log.problem()
    if problem is not None:
        raise ValueError(problem)
    return log


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type=_JSON)


def _full() -> HTTPException:
    return HTTPException(_UNAVAILABLE, "Kafka has been away for long and no more fits in memory; try again")


def _problem(field: str, message: str) -> dict[str, str]:
    return {"field": field, "message": message}


async def _invalid(_request: Request, error: RequestValidationError) -> Response:
    """Names the fields. What was sent is not repeated: it may be what cannot be written as JSON."""
    problems = [
        _problem(".".join(_plain(part) for part in e["loc"] if part != "body") or "body", e["msg"])
        for e in error.errors()
    ]
    return Response(to_json({"detail": problems}), _INVALID, media_type=_JSON)


def _plain(part: object) -> str:
    return str(part).encode(errors="replace").decode()

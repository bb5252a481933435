"""The operations endpoint of a process: health, readiness, metrics, JSON reports, and commands.

Knows nothing of what it reports on: readiness, reports and commands are functions that the role hands in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from socketserver import ThreadingMixIn
from types import MappingProxyType
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
import numpy as np
from prometheus_client import make_wsgi_app

_log = logging.getLogger(__name__)

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_NO_REPORTS: Final[Mapping[str, Callable[[], Any]]] = MappingProxyType({})
_MAX_BODY: Final = 1 << 16
_POLL_SECONDS: Final = 0.05
"""How soon `stop` is noticed."""

Command = Callable[[dict[str, Any]], Any]
"""Takes the parameters of a command and returns what to answer; a ValueError says what is wrong with them."""

_NO_COMMANDS: Final[Mapping[str, Command]] = MappingProxyType({})


class OpsServer:
    """Serves /healthz, /readyz, /metrics and /report/<name> over HTTP, each request in a thread of its own.

    `POST /command/<name>` with a JSON object runs a command: 200 and its answer, or 422 and what is wrong.

    Args:
        host: the address to listen on.
        port: the port; 0 picks a free one, which `port` then names.
        ready: whether the process can do its work; False or an exception answers 503.
        reports: JSON-able values by name. NumPy numbers and arrays are fine; NaN and infinity become null.
        commands: what POST may run, by name.

    Raises:
        OSError: the address is taken or not this machine's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        ready: Callable[[], bool],
        reports: Mapping[str, Callable[[], Any]] | None = None,
        commands: Mapping[str, Command] | None = None,
    ) -> None:
        self._ready = ready
        self._reports = _NO_REPORTS if reports is None else reports
        self._commands = _NO_COMMANDS if commands is None else commands
        self._metrics = make_wsgi_app()
        self._server = make_server(host, port, self._answer, server_class=_Server, handler_class=_Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_SECONDS,), name="ops", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering and close the socket."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", "/"))
        if path == "/metrics":
            page: Iterable[bytes] = self._metrics(environ, start_response)
            return page
        posted = environ.get("REQUEST_METHOD") == "POST"
        status, kind, body = self._command(path, environ) if posted else self._page(path)
        start_response(f"{status.value} {status.phrase}", [("Content-Type", kind)])
        return [body]

    def _page(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/healthz":
            return HTTPStatus.OK, _TEXT, b"ok\n"
        if path == "/readyz":
            return self._readiness()
        if path.startswith("/report/"):
            return self._report(path.removeprefix("/report/"))
        legal = b"legal paths are /healthz, /readyz, /metrics and /report/<name>\n"
        return HTTPStatus.NOT_FOUND, _TEXT, legal

    def _command(self, path: str, environ: dict[str, Any]) -> tuple[HTTPStatus, str, bytes]:
        name = path.removeprefix("/command/")
        command = self._commands.get(name) if path.startswith("/command/") else None
        if command is None:
            legal = ", ".join(sorted(self._commands)) or "none here"
            return HTTPStatus.NOT_FOUND, _TEXT, f"command: {name!r}; legal are {legal}\n".encode()
        try:
            return HTTPStatus.OK, _JSON, to_json(command(_parameters(environ)))
        except ValueError as error:
            return HTTPStatus.UNPROCESSABLE_ENTITY, _TEXT, f"{error}\n".encode()
        except Exception:  # noqa: BLE001 - a role's command must not take the endpoint down
            _log.exception("command %s failed", name)
            return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"the command failed; the log says why\n"

    def _readiness(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            ready = self._ready()
        except Exception:  # noqa: BLE001 - whatever a role's check raises, the endpoint must answer
            _log.exception("the readiness check failed")
            ready = False
        if ready:
            return HTTPStatus.OK, _TEXT, b"ready\n"
        return HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not ready\n"

    def _report(self, name: str) -> tuple[HTTPStatus, str, bytes]:
        report = self._reports.get(name)
        if report is None:
            legal = ", ".join(sorted(self._reports)) or "none here"
            return HTTPStatus.NOT_FOUND, _TEXT, f"report: {name!r}; legal are {legal}\n".encode()
        try:
            return HTTPStatus.OK, _JSON, to_json(report())
        except Exception:  # noqa: BLE001 - a role's report must not take the endpoint down
            _log.exception("report %s failed", name)
            return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"the report failed; the log says why\n"


def _parameters(environ: Mapping[str, Any]) -> dict[str, Any]:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdigit() or int(length) > _MAX_BODY:
        raise ValueError(f"content-length: {length}; legal is 0 to {_MAX_BODY}")
    body = environ["wsgi.input"].read(int(length))
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"body: {error}; legal is a JSON object") from error


def to_json(value: Any) -> bytes:
    """`value` as JSON: NumPy scalars and arrays as plain numbers and lists, NaN and infinity as null."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"cannot report a {type(value).__name__}")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    # a client that stops half-way must not hold its thread for ever
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        _log.debug(format, *args)

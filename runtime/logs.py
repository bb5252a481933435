"""Logging of a process, on stderr, as text or as JSON lines. Handlers are set here and nowhere else.

HEADWATER_LOGS says which: "text", the default, for people, "json" for what collects logs. What a line is
about (a request, a trace) is set by `about` and shown in both.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

import msgspec

from schema.errors import ConfigError

FORM: Final = "HEADWATER_LOGS"
"""The variable of the environment that names the form of the lines."""

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_ABOUT: Final[ContextVar[Mapping[str, str]]] = ContextVar("about", default=_NOTHING)
_FORMAT: Final = "%(asctime)s.%(msecs)03d {role} %(levelname)s %(name)s: %(message)s"
_QUIET: Final = {
    # these report each connection attempt, rebalance step or request; what comes of them in the end (no
    # broker, a message not delivered) `runtime.kafka` says itself
    "kafka": logging.ERROR,
    "kafka.net": logging.CRITICAL,
    "kafka.cluster": logging.CRITICAL,
    "aiokafka": logging.ERROR,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "asyncio": logging.WARNING,
    "urllib3": logging.WARNING,
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "numba": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "uvicorn.error": logging.WARNING,
    "jgo": logging.WARNING,
}


def configure(role: str, level: str = "INFO") -> None:
    """Send this process's logs to stderr as "time role level logger: message", or as JSON.

    Args:
        role: the process's name, such as "shard-0".
        level: the lowest level of the project's own loggers; libraries known to chat stay above it.

    Raises:
        ValueError: `level` is not a level's name.
        ConfigError: HEADWATER_LOGS is neither "text" nor "json".
    """
    legal = logging.getLevelNamesMapping()
    if level not in legal:
        raise ValueError(f"level: {level!r}; legal are {', '.join(sorted(legal))}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(role))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, legal[level]))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Have every line that is logged within name `fields`, such as request_id or trace."""
    token = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def _formatter(role: str) -> logging.Formatter:
    form = os.environ.get(FORM, "text")
    if form == "json":
        return _Json(role)
    if form == "text":
        return _Text(_FORMAT.format(role=role.replace("%", "%%")), datefmt="%H:%M:%S")
    raise ConfigError(f"{FORM}: {form!r}; legal are text and json")


class _Text(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the base class names it so
        fields = "".join(f" {name}={value}" for name, value in _ABOUT.get().items())
        return super().formatMessage(record) + fields


class _Json(logging.Formatter):
    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "role": self._role,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_ABOUT.get(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # what came from outside may hold what UTF-8 cannot
        clean = {name: value.encode(errors="replace").decode() for name, value in line.items()}
        return msgspec.json.encode(clean).decode()

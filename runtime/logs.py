"""Logging of a process: one line format on stderr. Handlers are set here and nowhere else."""

from __future__ import annotations

import logging
import sys
from typing import Final

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
    """Send this process's logs to stderr as "time role level logger: message".

    Args:
        role: the process's name, such as "shard-0".
        level: the lowest level of the project's own loggers; libraries known to chat stay above it.

    Raises:
        ValueError: `level` is not a level's name.
    """
    legal = logging.getLevelNamesMapping()
    if level not in legal:
        raise ValueError(f"level: {level!r}; legal are {', '.join(sorted(legal))}")
    handler = logging.StreamHandler(sys.stderr)
    escaped = role.replace("%", "%%")
    handler.setFormatter(logging.Formatter(_FORMAT.format(role=escaped), datefmt="%H:%M:%S"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(least, legal[level]))

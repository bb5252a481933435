"""The files of Apache Kafka: fetched from Maven once per machine, then found in a cache.

Knows Maven coordinates, not how a broker runs.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from runtime.errors import KafkaJarsUnavailable

_log = logging.getLogger(__name__)

VERSION: Final = "4.3.1"
COORDINATES: Final = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    # without a binding of SLF4J the broker logs nothing
    "org.slf4j:slf4j-reload4j:1.7.36",
)
_ATTEMPTS: Final = 3
_REQUEST_SECONDS: Final = 30
_CONNECTIONS: Final = 4


def kafka_jars(cache: Path | None = None) -> Path:
    """The folder that holds every jar of the broker, fetched first if it is not there.

    Safe when several processes ask at once: one fetches, the others wait for it.

    Args:
        cache: where such folders are kept; by default ~/.cache/headwater, or below XDG_CACHE_HOME.

    Raises:
        KafkaJarsUnavailable: they are not there and could not be fetched.
    """
    cache = _default_cache() if cache is None else cache
    jars = cache / f"kafka-{VERSION}"
    if jars.is_dir():
        return jars
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"kafka-{VERSION}.lock"):
        if not jars.is_dir():
            _fetch_all(cache, jars)
    return jars


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "headwater"


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch_all(cache: Path, jars: Path) -> None:
    """Fetch into a folder of its own and rename that, so that a cut-off download is never taken for whole."""
    for attempt in range(1, _ATTEMPTS + 1):
        scratch = Path(tempfile.mkdtemp(prefix="kafka-", dir=cache))
        try:
            _fetch(scratch).rename(jars)
        except (OSError, RuntimeError, ValueError) as error:  # what jgo and requests raise
            _log.warning("fetching Apache Kafka failed (attempt %d of %d): %s", attempt, _ATTEMPTS, error)
            last = error
        else:
            return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise KafkaJarsUnavailable(
        f"Apache Kafka {VERSION} is not in {cache} and could not be fetched from Maven: {last}; connect to "
        "the network once, name a mirror in jgo's settings ([repositories] of ~/.config/jgo.conf), or set "
        "kafka.bootstrap to a broker that runs"
    ) from last


def _fetch(scratch: Path) -> Path:
    repositories = {"central": MAVEN_CENTRAL_URL} | GlobalSettings.load().repositories
    context = MavenContext(
        repo_cache=scratch / "repository", remote_repos=repositories, timeout=_REQUEST_SECONDS
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=Console(stderr=True)) as progress,
        ThreadPoolExecutor(_CONNECTIONS) as pool,
    ):
        task = progress.add_task(f"Apache Kafka {VERSION} (45 MB, once): resolving", total=None)
        inputs, further = context.resolver.resolve([context.create_dependency(c) for c in COORDINATES])
        needed = [*inputs, *(d for d in further if d.scope in ("compile", "runtime"))]
        progress.update(task, description=f"Apache Kafka {VERSION} (45 MB, once): jars", total=len(needed))
        target = scratch / "jars"
        target.mkdir()
        for path in pool.map(lambda d: d.artifact.resolve(), needed):
            path.rename(target / path.name)
            progress.advance(task)
    return target

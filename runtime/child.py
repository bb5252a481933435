"""One supervised process: its start, its output line by line, and what is known of its life."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Final

from runtime.backoff import Backoff
from runtime.probes import Probe
from runtime.processes import die_with_parent

_log = logging.getLogger(__name__)

OnLine = Callable[[str, str], None]
"""Called with a process's name and one line of its output, without the line's end."""

_TAIL_LINES: Final = 30
# several roles share few cores: a thread pool in each only makes them wait for one another
_DEFAULT_ENV: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to supervise.

    Attributes:
        name: unique, such as "shard-0".
        argv: the command line.
        stage: it starts once all of lower stages are ready, and stops before they do.
        ready: asked until it says yes; None counts as ready once started.
        once: it runs to its end instead of for good, and is ready when it has ended with status 0.
        env: environment variables on top of this process's own.
    """

    name: str
    argv: tuple[str, ...]
    stage: int = 0
    ready: Probe | None = None
    once: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


class Child:
    """The process of a spec: started, watched, and started again by the supervisor's one thread."""

    def __init__(self, spec: ProcessSpec, backoff: Backoff, on_line: OnLine) -> None:
        self.spec = spec
        self.restarts = 0
        self._backoff = backoff
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._started_at = 0.0
        self._due_at: float | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The process if it runs."""
        process = self._process
        return process if process is not None and process.poll() is None else None

    @property
    def pid(self) -> int | None:
        """The id of the process if it runs."""
        process = self.process
        return None if process is None else process.pid

    @property
    def status(self) -> int | None:
        """The exit status if it has ended; minus the signal's number if one ended it."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; it dies if the calling thread ends.

        Raises:
            OSError: the command cannot be run.
        """
        self._process = process = subprocess.Popen(
            self.spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**_DEFAULT_ENV, **os.environ, **self.spec.env},
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops all in order
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - see die_with_parent
        )
        self._started_at = time.monotonic()
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        self._reader = threading.Thread(
            target=self._forward, args=(process.stdout,), name=f"output of {self.spec.name}", daemon=True
        )
        self._reader.start()

    def ready(self) -> bool:
        """Whether it can be used now."""
        if self.spec.once:
            return self.status == 0
        return self.spec.ready is None or self.spec.ready()

    def restart_if_dead(self, now: float) -> bool:
        """Start it again if it has died and its back-off is over; whether anything changed.

        Args:
            now: on the clock of `time.monotonic`.
        """
        if self.process is not None or self.spec.once:
            return False
        if self._due_at is None:
            self._backoff = self._backoff.after_death(now - self._started_at)
            self._due_at = now + self._backoff.delay
            _log.warning("%s %s; restarting in %.1f s", self.spec.name, self.fate(), self._backoff.delay)
            return True
        if now < self._due_at:
            return False
        self._due_at = None
        self.restarts += 1
        self.start()
        return True

    def fate(self) -> str:
        """How the process ended, in words."""
        status = self.status
        if status is None:
            return "runs"
        return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"

    def tail(self) -> str:
        """The last lines of output, once a process that has ended has been read to its end."""
        if self._reader is not None and self.process is None:
            self._reader.join(timeout=2.0)
        return "\n".join(self._tail) or "(it printed nothing)"

    def _forward(self, output: IO[bytes]) -> None:
        with output:
            for raw in output:
                line = raw.decode(errors="replace").rstrip()
                self._tail.append(line)
                self._on_line(self.spec.name, line)


def print_line(name: str, line: str) -> None:
    """Print a line of a process to stderr behind its name, which on a terminal has a colour of its own."""
    label = f"{name:<10}"
    if sys.stderr.isatty():
        label = f"\x1b[{31 + sum(name.encode()) % 6}m{label}\x1b[0m"
    sys.stderr.write(f"{label} | {line}\n")

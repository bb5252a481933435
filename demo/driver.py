"""What feeds the loop: a replay or simulated users, as a process whose last line is its account."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from pathlib import Path
from threading import Thread
from typing import Any

from runtime.errors import PlumbingError
from runtime.processes import die_with_parent, stop_together


class DriverFailed(PlumbingError):  # noqa: N818 - says what happened
    """The replay or the simulator ended with an error; the text has its last lines."""


class Driver:
    """A replay or a simulator that runs by itself. Its output goes to `log`."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._log = log.open("w")
        self._tail: deque[str] = deque(maxlen=20)
        self._process = subprocess.Popen(
            [sys.executable, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - see die_with_parent
        )
        self._reader = Thread(target=self._read, name="driver output", daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self._process.poll() is None

    def stop(self, seconds: float) -> None:
        """Asks it to end, and kills it after `seconds`."""
        stop_together([self._process], seconds)

    def account(self) -> dict[str, Any]:
        """What it says it sent, once it has ended.

        Raises:
            DriverFailed: it ended with an error, or without an account.
        """
        self._reader.join(timeout=5.0)
        last = self._tail[-1] if self._tail else ""
        if self._process.returncode == 0 and last.startswith("{"):
            account: dict[str, Any] = json.loads(last)
            return account
        raise DriverFailed(f"it ended with status {self._process.returncode}:\n" + "\n".join(self._tail))

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        with self._log, self._process.stdout as lines:
            for raw in lines:
                line = raw.decode(errors="replace")
                self._log.write(line)
                self._tail.append(line.rstrip())


def replay(data: Path, config_file: Path, log: Path) -> Driver:
    """The replay of the KuaiRand log in `data`, as fast as it goes."""
    argv = ["-m", "simulation.replay", "--dataset", "kuairand", "--path", str(data)]
    return Driver([*argv, "--speed", "max", "--config", str(config_file)], log)


def simulate(seconds: float, config_file: Path, log: Path) -> Driver:
    """Simulated users for `seconds`."""
    argv = ["-m", "simulation.simulate", "--config", str(config_file), "--seconds", str(seconds)]
    return Driver(argv, log)

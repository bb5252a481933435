"""Starting and stopping child processes: they die with their parent, and stops share a deadline."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_KILL_SECONDS: Final = 5.0
# loaded here: between fork and exec nothing may be imported or allocated for long
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` after which the kernel kills the child once the thread that started it ends.

    None where the kernel has no such thing (anything but Linux). The starting thread has to live as long
    as the child should.
    """
    libc = _LIBC
    if libc is None:
        return None
    parent = os.getpid()

    def request() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

    return request


def stop_groups(groups: Sequence[Sequence[subprocess.Popen[bytes]]], seconds: float) -> None:
    """Stop groups of processes one after the other, all within `seconds`.

    Those of a group are asked together (SIGTERM). Each group has an equal share of the time that is left,
    so that one that hangs does not cost the later ones their orderly end; then it is killed (SIGKILL).
    """
    deadline = time.monotonic() + seconds
    for index, group in enumerate(groups):
        share = (deadline - time.monotonic()) / (len(groups) - index)
        stop_together(group, share)


def stop_together(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    """Ask `processes` to stop, and kill those that have not after `seconds`."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_KILL_SECONDS)


def last_lines(path: Path, count: int = 20) -> str:
    """The last lines of a text file, or a note that there is none."""
    try:
        with path.open(errors="replace") as file:
            return "".join(deque(file, maxlen=count)).rstrip() or f"({path} is empty)"
    except OSError as error:
        return f"({path}: {error.strerror})"

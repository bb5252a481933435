"""Starts processes in stages, restarts those that die, and stops all in order. Knows no role."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from runtime.backoff import Backoff
from runtime.child import Child, OnLine, ProcessSpec, print_line
from runtime.errors import ProcessFailed
from runtime.processes import stop_groups
from schema.config import LaunchConfig

_log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1


class Supervisor:
    """Runs `specs` until told to stop. `{run_dir}/processes.json` always says which run, as which process.

    One thread of its own starts, watches and stops the children, because on Linux they are killed when the
    thread that started them ends. So none outlives this process, however that ends.

    Args:
        specs: the processes, in any order; their stages order them.
        config: deadlines and back-off.
        run_dir: where processes.json goes.
        on_line: takes each line that a process prints; by default it goes to stderr behind the name.

    Raises:
        ValueError: two specs have one name.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        config: LaunchConfig,
        run_dir: Path,
        on_line: OnLine = print_line,
    ) -> None:
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ValueError(f"specs: {names}; legal are different names")
        backoff = Backoff(config.backoff_seconds, config.backoff_max_seconds)
        ordered = sorted(specs, key=lambda spec: spec.stage)
        self._config = config
        self._children = [Child(spec, backoff, on_line) for spec in ordered]
        self._state_file = run_dir / "processes.json"
        self._stopping = threading.Event()
        self._started: Future[bool] = Future()
        # waited for instead of the thread: a join that Ctrl-C interrupts takes the thread for ended
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> bool:
        """Start everything, stage by stage; True once all is ready, False if `stop` was called before.

        Raises:
            ProcessFailed: a process ended, or was not ready in time; all others have been stopped.
            OSError: a command cannot be run.
        """
        self._state_file.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        while not wait([self._started], _POLL_SECONDS).done:
            pass  # see _wait_for_end
        return self._started.result()

    def stop(self) -> None:
        """Stop everything in reverse order; what has not stopped in time is killed."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._wait_for_end()

    def wait(self) -> None:
        """Block until another thread calls `stop`.

        Raises:
            OSError: a process could not be started again; all others have been stopped.
        """
        self._wait_for_end()
        if self._error is not None:
            raise self._error

    def restarts(self) -> dict[str, int]:
        """How often each process has been started again."""
        return {child.spec.name: child.restarts for child in self._children}

    def pids(self) -> dict[str, int | None]:
        """The process id by name; None while a process does not run."""
        return {child.spec.name: child.pid for child in self._children}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_for_end(self) -> None:
        # in turns: of two signals at once, a main thread that waits without a timeout may handle neither
        while not self._ended.wait(_POLL_SECONDS):
            pass

    def _run(self) -> None:
        try:
            self._start_and_watch()
        except Exception as error:  # noqa: BLE001 - whatever it is, `start` or `wait` raises it
            self._error = error
        try:
            self._stop_all()
        finally:
            if self._error is not None and not self._started.done():
                self._started.set_exception(self._error)
            self._ended.set()

    def _start_and_watch(self) -> None:
        for _, stage in groupby(self._children, key=lambda child: child.spec.stage):
            self._start_stage(list(stage))
        self._started.set_result(not self._stopping.is_set())
        while not self._stopping.wait(_POLL_SECONDS):
            self._restart_dead()

    def _start_stage(self, children: list[Child]) -> None:
        if self._stopping.is_set():
            return
        for child in children:
            child.start()
        self._write_state()
        deadline = time.monotonic() + self._config.ready_seconds
        waiting = children
        while waiting and not self._stopping.wait(_POLL_SECONDS):
            waiting = [child for child in waiting if not child.ready()]
            for child in waiting:
                self._check(child, deadline)
        self._write_state()

    def _check(self, child: Child, deadline: float) -> None:
        if child.process is None and not (child.spec.once and child.status == 0):
            reason = f"{child.fate()} before it was ready"
        elif time.monotonic() > deadline:
            reason = f"was not ready within {self._config.ready_seconds:g} s (launch.ready_seconds)"
        else:
            return
        raise ProcessFailed(f"{child.spec.name} {reason}; its last lines:\n{child.tail()}")

    def _restart_dead(self) -> None:
        changed = [child.restart_if_dead(time.monotonic()) for child in self._children]
        if any(changed):
            self._write_state()

    def _stop_all(self) -> None:
        backwards = groupby(reversed(self._children), key=lambda child: child.spec.stage)
        groups = [[c.process for c in stage if c.process is not None] for _, stage in backwards]
        stop_groups([group for group in groups if group], self._config.stop_seconds)
        self._write_state()

    def _write_state(self) -> None:
        state = {c.spec.name: {"pid": c.pid, "restarts": c.restarts} for c in self._children}
        scratch = self._state_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(state, indent=1))
        scratch.replace(self._state_file)

"""One shard as a process: restores, serves, checkpoints now and then and at its end, reports its health.

Knows no command line and no signals: it runs until the event that it is given is set.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from parameter_server import checkpoint, metrics
from parameter_server.checkpoint import Saved
from parameter_server.errors import InvalidRequest
from parameter_server.restore import folder_of, open_shard, retire
from parameter_server.server import ShardServer
from parameter_server.table import Counters
from runtime.ops import OpsServer
from schema.config import Config
from schema.errors import ConfigError

_log = logging.getLogger(__name__)

_STOP_SECONDS: Final = 5.0


class ShardProcess:
    """Shard `index` of `config`, with its checkpoints under `config.run_dir`/shard-`index`.

    Raises:
        ConfigError: there is no such shard.
        CheckpointError: there are checkpoints, but none can be read, or they are of other tables.
        OSError: a port is taken.
    """

    def __init__(self, config: Config, index: int) -> None:
        settings = config.parameter_server
        if not 0 <= index < len(settings.shards):
            raise ConfigError(f"shard: {index}; legal is 0 to {len(settings.shards) - 1}")
        self._seconds = settings.checkpoint_seconds
        self._run_dir = Path(config.run_dir)
        self._shard, self._checkpoints, rerouted = open_shard(settings, index, self._run_dir)
        self._saving = threading.Lock()
        self._saved: tuple[int, int] | None = self._mark()
        if rerouted:
            # at once, so that no shard of the new number is ever without a checkpoint of its own
            self.checkpoint("", always=True)
        self._observe()
        place = settings.shards[index]
        try:
            self._server = ShardServer(self._shard, place.host, place.port, self)
        except pa.ArrowException as error:
            raise OSError(f"shard {index} cannot listen on {place.host}:{place.port}: {error}") from error
        reports = {"shard": self._report, "digest": self._digests}
        self._ops = OpsServer(config.ops_host, place.ops_port, lambda: True, reports)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set, then write a last checkpoint."""
        self._ops.start()
        state = self._shard.state()
        _log.info("shard %d serves from clock %d, epoch %d", self._shard.index, state.clock, state.epoch)
        try:
            while not stop.wait(self._seconds):
                self._checkpoint_or_log()
        finally:
            self._stop_serving()  # first, so that the last checkpoint has all that was acknowledged
            self.checkpoint("")
            self._checkpoints.close()
            self._ops.stop()

    def _stop_serving(self) -> None:
        """Refuse new calls and wait for those under way, but not for a peer that has stopped reading."""
        stopping = threading.Thread(target=self._server.shutdown, name="stop-serving", daemon=True)
        stopping.start()
        stopping.join(_STOP_SECONDS)
        if stopping.is_alive():
            _log.warning("calls are still under way after %s s; what they push now is lost", _STOP_SECONDS)

    def _checkpoint_or_log(self) -> None:
        """A full disk must not take down a shard that still serves; the next round tries again."""
        try:
            self.checkpoint("")
        except OSError:
            _log.exception("checkpoint failed, trying again in %s s", self._seconds)

    def checkpoint(self, name: str, *, always: bool = False) -> Saved | None:
        """Write a checkpoint; None where nothing has changed, and it has no name and need not be written.

        Raises:
            OSError: the disk refused; the earlier checkpoints are untouched.
        """
        with self._saving:
            mark = self._mark()
            if mark == self._saved and not name and not always:
                return None
            start = time.perf_counter()
            saved = self._checkpoints.save(self._shard, name)
            self._saved = mark
        elapsed = time.perf_counter() - start
        metrics.CHECKPOINT_SECONDS.labels("changes" if saved.incremental else "all").observe(elapsed)
        _log.info("%s at clock %d took %.2f s", saved.path.name, saved.clock, elapsed)
        retire(self._run_dir, self._shard.index, self._checkpoints, len(self._shard.config.shards))
        return saved

    def restore(self, name: str) -> Saved:
        """Return to the newest checkpoint of that name, and make it the newest of all, in a new epoch.

        Raises:
            InvalidRequest: there is no such checkpoint; the message has the legal ones.
            CheckpointError: it cannot be read; nothing was changed.
            OSError: the disk refused.
        """
        with self._saving:
            folder = folder_of(self._run_dir, self._shard.index)
            paths = [
                path for path in checkpoint.found(folder) if name in (checkpoint.name_of(path), path.name)
            ]
            if not paths:
                legal = ", ".join(checkpoint.name_of(path) or path.name for path in checkpoint.found(folder))
                raise InvalidRequest(f"checkpoint: {name!r}; legal are {legal or 'none yet'}")
            self._shard.restore(checkpoint.load(paths[0]))
            self._checkpoints.rebase(paths[0])
            saved = self._checkpoints.save(self._shard)
            self._saved = self._mark()
        _log.warning("restored %s: clock %d, epoch %d", paths[0].name, saved.clock, self._shard.epoch)
        return saved

    def _mark(self) -> tuple[int, int]:
        """Changes with whatever a checkpoint keeps."""
        return self._shard.state().clock, self._shard.dense.revision

    def _observe(self) -> None:
        metrics.CLOCK.set_function(lambda: self._shard.state().clock)
        for name in self._shard.tables:
            metrics.ROWS.labels(name).set_function(partial(self._rows, name))
            for kind in fields(Counters):
                metrics.ROW_EVENTS.labels(name, kind.name).set_function(
                    partial(self._events, name, kind.name)
                )

    def _rows(self, table: str) -> int:
        return self._shard.row_counts()[table]

    def _events(self, table: str, kind: str) -> int:
        count: int = getattr(self._shard.counters()[table], kind)
        return count

    def _report(self) -> dict[str, Any]:
        state = self._shard.state()
        return {
            "index": self._shard.index,
            "epoch": state.epoch,
            "clock": state.clock,
            "rows": self._shard.row_counts(),
            "steps": state.steps,
            "evictions": sum(c.evicted + c.expired for c in self._shard.counters().values()),
        }

    def _digests(self) -> dict[str, dict[str, int]]:
        """By table: costs a pass over all rows."""
        digests = {name: self._shard.digest(name) for name in self._shard.tables}
        return {name: {"clock": clock, "digest": digest} for name, (clock, digest) in digests.items()}

"""The trainer's recovery state on disk: the newest checkpoints, and the journal of the steps since each.

checkpoint-N closes journal-(N-1) and opens journal-N. Two checkpoints are kept, and the journals since the
older, so that a damaged newest one costs time and no step.
"""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import Final

from trainer.checkpoint import Image, read_checkpoint, write_checkpoint
from trainer.errors import RecoveryError
from trainer.journal import JournalWriter, StepRecord, read_journal

_log = logging.getLogger(__name__)

KEPT: Final = 2


class RecoveryStore:
    """The recovery state in `folder`, which is made, and belongs to one process at a time.

    Raises:
        RecoveryError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._number = 0
        self._journal: JournalWriter | None = None
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RecoveryError(
                f"{folder}: another trainer uses it; legal is one for each run_dir"
            ) from error

    def load(self) -> tuple[Image | None, list[StepRecord]]:
        """The newest readable checkpoint, None if there never was one, and the steps since.

        Nothing may be appended before the next `save`.

        Raises:
            RecoveryError: checkpoints are there and none can be read, or a journal is damaged or missing.
        """
        numbers = _numbers(self._folder, "checkpoint")
        self._number = max(numbers + _numbers(self._folder, "journal"), default=0)
        for number in reversed(numbers):
            try:
                image = read_checkpoint(self._path("checkpoint", number))
            except RecoveryError as error:
                _log.warning("%s; trying an older one", error)
                continue
            return image, self._steps_since(number)
        if numbers:
            raise RecoveryError(
                f"{self._folder}: no checkpoint can be read; legal is to restore one, or to remove the "
                "folder and train from the earliest sample"
            )
        return None, []

    def append(self, record: StepRecord) -> None:
        """Write a step to the journal, before it is pushed."""
        assert self._journal is not None, "append before save"  # noqa: S101
        self._journal.append(record)

    def save(self, image: Image) -> None:
        """Write a checkpoint, begin its journal, and remove what is no longer needed."""
        self._number += 1
        # the journal comes first: so a checkpoint without one is never right
        journal = JournalWriter(self._path("journal", self._number))
        write_checkpoint(self._path("checkpoint", self._number), image)
        if self._journal is not None:
            self._journal.close()
        self._journal = journal
        for kind in ("checkpoint", "journal"):
            for number in _numbers(self._folder, kind):
                if number <= self._number - KEPT:
                    self._path(kind, number).unlink()

    def close(self) -> None:
        """Give the folder back."""
        if self._journal is not None:
            self._journal.close()
        self._lock.close()

    def _steps_since(self, number: int) -> list[StepRecord]:
        records: list[StepRecord] = []
        for n in range(number, self._number + 1):
            path = self._path("journal", n)
            if not path.exists():
                raise RecoveryError(f"{path} is missing; without it the steps after checkpoint {n} are lost")
            records += read_journal(path)
        return records

    def _path(self, kind: str, number: int) -> Path:
        suffix = {"checkpoint": "ckpt", "journal": "log"}[kind]
        return self._folder / f"{kind}-{number:08d}.{suffix}"


def _numbers(folder: Path, kind: str) -> list[int]:
    suffix = {"checkpoint": "ckpt", "journal": "log"}[kind]
    return sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob(f"{kind}-*.{suffix}"))

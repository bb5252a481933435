"""The recovery points on disk, and the journal of the steps since each: what a kill returns everything to.

A point is a manifest, point-N.json, written last, and what it names: the trainer's state, the pushes that
the shards' checkpoints may lack, the first journal of the steps after it, and the checkpoints of the shards,
which lie with them. Where there is no manifest there is no point.
"""

from __future__ import annotations

import fcntl
import logging
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from trainer.checkpoint import Image, encode_image, read_image, whole_image, write_whole
from trainer.errors import RecoveryError, UnknownPoint
from trainer.journal import Push, PushRecord, RecordWriter, StepRecord, read_records
from trainer.manifest import FORMAT, Cut, Manifest, ShardPlace, read_manifest

_log = logging.getLogger(__name__)

_MOST_STATES: Final = 32
"""A point follows no more than so many."""


class Draft(NamedTuple):
    """A point that is being made: its number, and the file that pushes are kept in meanwhile."""

    number: int
    pushes: RecordWriter[PushRecord]


class Loaded(NamedTuple):
    """A point with all that it holds, and the steps that followed it."""

    manifest: Manifest
    image: Image
    pushes: list[Push]
    records: list[StepRecord]


def points_in(folder: Path) -> list[Manifest]:
    """The recovery points in `folder`, the oldest first; needs no lock."""
    found = []
    for path in sorted(folder.glob("point-*.json")):
        try:
            found.append(read_manifest(path))
        except RecoveryError as error:
            _log.warning("recovery point skipped: %s", error)
    return found


class PointStore:
    """The recovery points in `folder`, which is made, and belongs to one process at a time.

    Args:
        folder: the folder.
        kept: how many points to keep.

    Raises:
        RecoveryError: another process has it.
    """

    def __init__(self, folder: Path, kept: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._kept = kept
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise RecoveryError(
                f"{folder}: another trainer uses it; legal is one for each run_dir"
            ) from error
        self._journal_number = max(self._numbers("journal-*.log"), default=0)
        self._journal = self._new_journal()
        self._made: Manifest | None = None

    def points(self) -> list[Manifest]:
        """The points that can be returned to, the oldest first."""
        return points_in(self._folder)

    def load(self) -> Loaded | None:
        """The newest point that is whole, None if there never was one, with the steps since.

        Raises:
            RecoveryError: there are points and none is whole.
        """
        for manifest in reversed(self.points()):
            try:
                return self._whole(manifest)
            except RecoveryError as error:
                _log.warning("recovery point %d is left out: %s", manifest.number, error)
        if any(self._folder.glob("point-*.json")):
            raise RecoveryError(
                f"{self._folder}: no recovery point is whole; legal is to restore one, or to remove the "
                "folder and train from the earliest sample"
            )
        return None

    def may_be_followed(self) -> bool:
        """Whether the next point may have only what changed since the last that `commit` made.

        Not where there is none, where its states are not all there, or where they are many, or larger than
        the whole that they follow.
        """
        if self._made is None or len(self._made.before) >= _MOST_STATES:
            return False
        paths = [self._path(name) for name in _states_of(self._made)]
        if not all(path.exists() for path in paths):
            return False
        first, *later = (path.stat().st_size for path in paths)
        return sum(later) < first

    def append(self, record: StepRecord) -> None:
        """Write a step to the journal."""
        self._journal.append(record)

    def begin(self) -> Draft:
        """Start a point; what is pushed from now on, and the push before, goes into its file."""
        number = 1 + max(self._numbers("point-*.json") + self._numbers("pushes-*.log"), default=0)
        return Draft(number, RecordWriter(self._path(_pushes_of(number))))

    def cut(self) -> int:
        """The steps from here on belong to another journal; its number."""
        self._journal.close()
        self._journal = self._new_journal()
        return self._journal_number

    def commit(
        self, draft: Draft, cut: Cut, journal: int, checkpoint: str, shards: tuple[ShardPlace, ...]
    ) -> Manifest:
        """Make a point of `draft`, which is on the disk on return. May run beside `append`.

        Args:
            draft: what `begin` has returned.
            cut: the trainer after the last push in it.
            journal: what `cut` of this store returned then.
            checkpoint: the name of the shards' checkpoints.
            shards: where they stood with it.

        Raises:
            OSError: the disk refused; the earlier points are as they were.
        """
        manifest = Manifest(
            format=FORMAT,
            number=draft.number,
            made_at=cut.made_at,
            step=cut.step,
            rows=cut.rows,
            settled=cut.settled,
            offsets=cut.positions,
            state=f"state-{draft.number:08d}.bin",
            pushes=_pushes_of(draft.number),
            pushed=draft.pushes.count,
            journal=journal,
            checkpoint=checkpoint,
            shards=shards,
            before=_states_of(self._made) if cut.follows and self._made is not None else (),
        )
        draft.pushes.close(sync=True)
        write_whole(self._path(manifest.state), encode_image(cut.state))
        self._publish(manifest)
        self._made = manifest
        return manifest

    def roll_back(self, number: int) -> Manifest:
        """Make point `number` the newest again, without the steps that followed it.

        Raises:
            UnknownPoint: there is none of that number; the text has those that there are.
            RecoveryError: it is not whole.
        """
        manifests = {manifest.number: manifest for manifest in self.points()}
        if number not in manifests:
            raise UnknownPoint(number, manifests)
        chosen = manifests[number]
        self._whole(chosen)
        again = msgspec.structs.replace(
            chosen, number=max(manifests) + 1, journal=self.cut(), returned_to=number
        )
        self._publish(again)
        self._made = None
        # what they say followed points that are not the newest any more
        for path in self._folder.glob("journal-*.log"):
            if _number(path) < again.journal:
                path.unlink()
        return again

    def close(self) -> None:
        """Give the folder back."""
        self._journal.close()
        self._lock.close()

    def _publish(self, manifest: Manifest) -> None:
        write_whole(self._path(f"point-{manifest.number:08d}.json"), msgspec.json.encode(manifest))
        self._prune()

    def _prune(self) -> None:
        """Drop the points beyond the last few, then the files that no point names and no draft writes."""
        kept = self.points()[-self._kept :]
        for path in self._folder.glob("point-*.json"):
            if _number(path) < kept[0].number:
                path.unlink()
        named = {name for manifest in kept for name in (*_states_of(manifest), manifest.pushes)}
        for path in [*self._folder.glob("state-*.bin"), *self._folder.glob("pushes-*.log")]:
            if path.name not in named and _number(path) <= kept[-1].number:
                path.unlink()
        for path in self._folder.glob("journal-*.log"):
            if _number(path) < min(manifest.journal for manifest in kept):
                path.unlink()

    def _whole(self, manifest: Manifest) -> Loaded:
        image = whole_image([read_image(self._path(name)) for name in _states_of(manifest)])
        path = self._path(manifest.pushes)
        pushes = [Push.of(r) for r in read_records(path, PushRecord)] if path.exists() else []
        if len(pushes) != manifest.pushed:
            raise RecoveryError(f"{path}: {len(pushes)} whole pushes; the manifest has {manifest.pushed}")
        return Loaded(manifest, image, pushes, self._steps_since(manifest))

    def _steps_since(self, manifest: Manifest) -> list[StepRecord]:
        """The steps that followed, up to the first that is not known: from there on batches are cut anew."""
        records: list[StepRecord] = []
        step, number = manifest.step, manifest.journal
        while (path := self._path(_journal_of(number))).exists():
            number += 1
            for record in read_records(path, StepRecord):
                if record.rows and record.step <= step:
                    continue  # it was read ahead at a cut, and is in both journals
                if record.step != step + (record.rows > 0):
                    _log.warning("the journal goes on with step %d after %d: left out", record.step, step)
                    return records
                records.append(record)
                step = record.step
        return records

    def _new_journal(self) -> RecordWriter[StepRecord]:
        self._journal_number += 1
        return RecordWriter(self._path(_journal_of(self._journal_number)))

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _numbers(self, pattern: str) -> list[int]:
        return sorted(_number(path) for path in self._folder.glob(pattern))


def _states_of(manifest: Manifest) -> tuple[str, ...]:
    return (*manifest.before, manifest.state)


def _pushes_of(number: int) -> str:
    return f"pushes-{number:08d}.log"


def _journal_of(number: int) -> str:
    return f"journal-{number:08d}.log"


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])

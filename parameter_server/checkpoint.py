"""Checkpoints of a shard on disk: RocksDB with the changed rows, hard-linked by name, and a manifest last.

Knows no clock and no network. A checkpoint holds segments: the first of all rows, each later one of the rows
and removals since the one before it. It appears by one rename once all of it is on the disk, so it is there
wholly or not at all. What is being written lies in `live-N` and counts for nothing until it is linked.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from parameter_server.database import Database, link
from parameter_server.dense import DenseVersion
from parameter_server.errors import CheckpointError, TrimmedError
from parameter_server.image import Marks, ShardImage
from parameter_server.messages import POINT
from parameter_server.optimizers import Kinds
from parameter_server.parts_codec import decode_part, encode_part
from parameter_server.shard import Shard
from parameter_server.sweep import Arrays, Part
from runtime.files import sync_folder, write_through
from schema.records import U8, U64

_log = logging.getLogger(__name__)

_PREFIX: Final = "checkpoint-"
_UNFINISHED: Final = "unfinished-"
_LIVE: Final = "live-"
_ROWS: Final = "rows"
_MANIFEST: Final = "MANIFEST.json"
_FORMAT: Final = 3
_ROWS_A_PART: Final = 8192
_MOST_SEGMENTS: Final = 256
_CANDIDATES: Final = b"candidates"
_UPKEEP: Final = b"upkeep"
_NO_IDS: Final = np.empty(0, np.uint64)


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many parts and rows, written by one checkpoint."""

    number: int
    parts: int
    rows: int


class Dense(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a dense version lies, and what it is."""

    key: str
    version: int
    step: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint says of itself. `generation` rises when shards become more or fewer.

    `pushes` is None where an earlier version wrote it, which kept nothing of housekeeping.
    """

    format: int
    name: str
    shard: int
    shards: int
    generation: int
    clock: int
    steps: dict[str, int]
    rows: dict[str, int]
    optimizers: dict[str, Kinds]
    dense: dict[str, Dense]
    segments: list[Segment]
    pushes: int | None = None
    pushed_ids: int = 0
    newest: int = 0


class Saved(NamedTuple):
    """A checkpoint that was written, and whether it has only what changed."""

    path: Path
    clock: int
    incremental: bool


class Checkpoints:
    """Writes the checkpoints of one shard.

    Args:
        folder: where they lie.
        kept: how many to keep of those without a name, and of those with one; points stay until dropped.
        shards: how many shards there are.
        generation: of this number of shards.
        base: the checkpoint that the shard was restored from: the next one has only what changed since.
    """

    def __init__(
        self, folder: Path, *, kept: int, shards: int, generation: int = 0, base: Path | None = None
    ) -> None:
        self._folder = folder
        self._kept = kept
        self._shards = shards
        self.generation = generation
        self._database: Database | None = None
        self._manifest: Manifest | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in [*folder.glob(_LIVE + "*"), *folder.glob(_UNFINISHED + "*")]:
            shutil.rmtree(leftover)
        if base is not None:
            self.rebase(base)

    def close(self) -> None:
        """Close the database; what was not linked is gone."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def rebase(self, base: Path | None) -> None:
        """Write on from the checkpoint `base`, which the shard was restored from; None: start over."""
        if base is None:
            self._manifest = None
            return
        live = self._new_live()
        link(base / _ROWS, live)
        self._take(Database(live))
        self._manifest = manifest_of(base)

    def _take(self, database: Database) -> None:
        self._manifest = None
        self._database, old = database, self._database
        if old is not None:
            old.discard()

    def save(self, shard: Shard, name: str = "") -> Saved:
        """Write a checkpoint of `shard`, the newest; `name` is kept apart from those without one.

        Raises:
            OSError: the disk refused; the earlier checkpoints are untouched.
        """
        before = self._manifest
        if before is not None and not _outgrown(before):
            try:
                return self._write(shard, name, before)
            except TrimmedError as error:
                _log.warning("a checkpoint of everything is due: %s", error)
            except OSError:
                self._manifest = None  # whatever the database has now, the next one starts afresh
                raise
        self._take(Database(self._new_live()))
        return self._write(shard, name, None)

    def _new_live(self) -> Path:
        numbers = [int(path.name.removeprefix(_LIVE)) for path in self._folder.glob(_LIVE + "*")]
        return self._folder / f"{_LIVE}{max(numbers, default=0) + 1}"

    def _write(self, shard: Shard, name: str, before: Manifest | None) -> Saved:
        database = self._database
        assert database is not None, "there is a database before anything is written"  # noqa: S101
        segments = list(before.segments) if before is not None else []
        number = segments[-1].number + 1 if segments else 0
        saving = shard.saving(None if before is None else before.clock, _ROWS_A_PART)
        parts = rows = 0
        for part in saving:
            database.put(_key(number, parts), encode_part(part))
            parts += 1
            rows += len(part.columns["ids"])
        for table, (ids, counts) in saving.marks.candidates.items():
            waiting = Part(table, ids[:0], {"ids": ids, "counts": counts})
            database.put(_CANDIDATES + table.encode(), encode_part(waiting))
        for table, state in saving.marks.upkeep.items():
            database.put(_UPKEEP + table.encode(), encode_part(Part(table, _NO_IDS, state)))
        dense = _put_dense(database, saving.marks.dense, {} if before is None else before.dense)
        manifest = Manifest(
            _FORMAT,
            name,
            shard.index,
            self._shards,
            self.generation,
            saving.marks.clock,
            dict(saving.marks.steps),
            saving.kept,
            {table.name: Kinds.of(table) for table in shard.config.tables},
            dense,
            [*segments, Segment(number, parts, rows)],
            saving.marks.pushes,
            saving.marks.pushed_ids,
            saving.marks.newest,
        )
        path = self._publish(database, manifest)
        self._manifest = manifest
        return Saved(path, manifest.clock, before is not None)

    def _publish(self, database: Database, manifest: Manifest) -> Path:
        number = max((number_of(path) for path in found(self._folder)), default=0) + 1
        title = f"{number:012d}" + (f"-{manifest.name}" if manifest.name else "")
        unfinished = self._folder / f"{_UNFINISHED}{title}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        database.link_to(unfinished / _ROWS)
        write_through(unfinished / _MANIFEST, msgspec.json.encode(manifest))
        sync_folder(unfinished)
        finished = self._folder / f"{_PREFIX}{title}"
        unfinished.rename(finished)
        sync_folder(self._folder)
        self._prune()
        return finished

    def _prune(self) -> None:
        """Drop what is beyond the last few; those of another number of shards may still be needed."""
        paths = [path for path in found(self._folder) if not name_of(path).startswith(POINT)]
        mine = [path for path in paths if self._is_mine(path)]
        for named in (False, True):
            for old in [path for path in mine if bool(name_of(path)) is named][self._kept :]:
                drop(old)

    def _is_mine(self, path: Path) -> bool:
        try:
            return manifest_of(path).generation == self.generation
        except CheckpointError:
            return True


def _outgrown(manifest: Manifest) -> bool:
    """Whether more is superseded than holds, so that starting over is cheaper than going on."""
    written = sum(segment.rows for segment in manifest.segments)
    return (
        len(manifest.segments) >= _MOST_SEGMENTS or written > 2 * sum(manifest.rows.values()) + _ROWS_A_PART
    )


def _key(segment: int, part: int) -> bytes:
    return b"part" + segment.to_bytes(8, "big") + part.to_bytes(8, "big")


def _put_dense(
    database: Database, versions: Mapping[str, DenseVersion], before: Mapping[str, Dense]
) -> dict[str, Dense]:
    placed = {}
    taken = {entry.key for entry in before.values()}
    for name, value in versions.items():
        held = before.get(name)
        if held is None or (held.version, held.step) != (value.version, value.step):
            # the key of an older version is not written over: only a finished manifest may replace it
            number = max((int(key.removeprefix("dense")) for key in taken), default=-1) + 1
            held = Dense(f"dense{number}", value.version, value.step)
            taken.add(held.key)
            database.put(held.key.encode(), value.payload)
        placed[name] = held
    return placed


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the newest first, whole or not."""
    return sorted(folder.glob(_PREFIX + "*"), key=number_of, reverse=True)


def drop(path: Path) -> None:
    """Remove the checkpoint at `path`: at once for whoever looks for checkpoints, then from the disk."""
    unwanted = path.with_name(_UNFINISHED + path.name)
    path.rename(unwanted)
    shutil.rmtree(unwanted)


def number_of(path: Path) -> int:
    """The number of the checkpoint at `path`, rising with age."""
    return int(path.name.removeprefix(_PREFIX).partition("-")[0])


def name_of(path: Path) -> str:
    """The name of the checkpoint at `path`; "" for one without."""
    return path.name.removeprefix(_PREFIX).partition("-")[2]


def manifest_of(path: Path) -> Manifest:
    """What the checkpoint at `path` says of itself.

    Raises:
        CheckpointError: it is incomplete or damaged.
    """
    try:
        manifest = msgspec.json.decode((path / _MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise CheckpointError(f"{path}: manifest: {error}") from error
    if manifest.format != _FORMAT:
        raise CheckpointError(f"{path}: format {manifest.format}; legal is {_FORMAT}")
    return manifest


def load(path: Path) -> ShardImage:
    """The image in the checkpoint at `path`. Its parts are read when they are iterated.

    Raises:
        CheckpointError: it is incomplete or damaged; iterating the parts may raise it too.
    """
    manifest = manifest_of(path)
    with Database(path / _ROWS, read_only=True) as database:
        dense = {
            name: DenseVersion(entry.version, entry.step, database.get(entry.key.encode()))
            for name, entry in manifest.dense.items()
        }
        candidates = {name: _candidates(database, path, name) for name in manifest.rows}
        known = [] if manifest.pushes is None else list(manifest.rows)
        upkeep = {name: _upkeep(database, path, name) for name in known}
    marks = Marks(
        manifest.clock,
        manifest.steps,
        dense,
        candidates,
        manifest.pushes or 0,
        manifest.pushed_ids,
        manifest.newest,
        upkeep,
    )
    return ShardImage(marks, _parts(path, manifest), manifest.rows, manifest.optimizers)


def _upkeep(database: Database, path: Path, table: str) -> Arrays:
    return decode_part(database.get(_UPKEEP + table.encode()), f"{path}: housekeeping of {table}").columns


def _candidates(database: Database, path: Path, table: str) -> tuple[U64, U8]:
    columns = decode_part(
        database.get(_CANDIDATES + table.encode()), f"{path}: candidates of {table}"
    ).columns
    return columns["ids"], columns["counts"]


def _parts(path: Path, manifest: Manifest) -> Iterator[Part]:
    with Database(path / _ROWS, read_only=True) as database:
        for segment in manifest.segments:
            for number in range(segment.parts):
                where = f"{path}: part {number} of segment {segment.number}"
                yield decode_part(database.get(_key(segment.number, number)), where)
